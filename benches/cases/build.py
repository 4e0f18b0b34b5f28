"""(f) A build of five steps: cold, with nothing remembered of it, and again with everything remembered."""

import os

from measure import accounting, image
from measure.place import run
from measure.report import Row

FILES = 200
DOCKERFILE = f"""FROM {image.NAME}
COPY src /app/src
WORKDIR /app
RUN cat src/* | md5sum > sum
RUN head -c 4000000 /dev/zero > zeros
CMD ["cat", "/app/sum"]
"""


def context(place):
    """A Dockerfile and a few files."""
    directory = place.dir / "build"
    source = directory / "src"
    source.mkdir(parents=True)
    for number in range(FILES):
        (source / f"file-{number}.txt").write_text(f"{number}\n" * 500)
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def measure(ours, rival, place, rounds):
    """Cold and cached builds, taking turns."""
    directory = context(place)
    builders = [(ours, ours.command("image", "build", "-q", "-t", "built:1", directory), None)]
    if rival:
        # The classic builder is what Debian's docker has.
        words = rival.command("build", "-q", "-t", "built:1", directory)
        builders.append((rival, words, {"DOCKER_BUILDKIT": "0", "HOME": str(place.dir), "PATH": os.environ["PATH"]}))
    cold, cached, machine = ([[], []] for _ in range(3))
    for number in range(rounds):
        # Another content: no step but FROM can come from a cache.
        (directory / "src" / "file-0.txt").write_text(f"round {number}\n")
        for index, (builder, words, environment) in enumerate(builders):
            busy = accounting.machine_ms()
            cold[index].append(run(words, builder.client_group, environment, builder.log))
            machine[index].append(accounting.machine_ms() - busy)
            cached[index].append(run(words, builder.client_group, environment, builder.log))
            accounting.leave_groups()
    return [
        Row("build of five steps, cold: wall time", "ms", *cold),
        Row("build of five steps, cold: whole machine by /proc/stat", "CPU-ms", *machine),
        Row("build of five steps, all remembered: wall time", "ms", *cached),
    ]
