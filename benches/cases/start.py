"""(a) From nothing to a ready node, and again on the same data; then what doing nothing costs."""

import time

from measure import accounting
from measure.report import Row


def measure_start(contenders, rounds):
    """Each contender starts on fresh data and again on it, `rounds` times, taking turns.

    `contenders` makes new ones: Sampan first, then the rival when there is one.
    """
    fresh, again, cpu = ([[], []] for _ in range(3))
    for _ in range(rounds):
        for index, make in enumerate(contenders):
            contender = make()
            before = contender.cpu_ms()
            fresh[index].append(contender.up())
            cpu[index].append(contender.cpu_ms() - before)
            contender.down()
            again[index].append(contender.up())
            contender.purge()
    return [
        Row("start on an empty directory, to node Ready (rival: API answers)", "ms", *fresh, aim=1000),
        Row("start on the same directory again", "ms", *again, aim=1000),
        Row("processor time until then, empty directory", "CPU-ms", *cpu),
    ]


def measure_idle(contenders, seconds):
    """All are up and have nothing to do; one window for all."""
    time.sleep(min(10, seconds))
    before = [contender.cpu_ms() for contender in contenders]
    begun = time.monotonic()
    time.sleep(seconds)
    elapsed = (time.monotonic() - begun) * 1000
    share = [[(c.cpu_ms() - b) / elapsed * 100] for c, b in zip(contenders, before)]
    memory = [accounting.memory(contender.service_processes()) for contender in contenders]
    of = lambda name: [[one[name]] for one in memory]
    return [
        Row("idle: memory of everything, proportional (Pss)", "MiB", *of("pss"), aim=80),
        Row("idle: the same as resident set (Rss)", "MiB", *of("rss"), aim=80),
        Row(f"idle: one core's time over {seconds} s", "%", *share, aim=1),
    ]
