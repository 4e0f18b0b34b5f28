"""The image that everybody runs: busybox, statically linked, as a root file system tar."""

import io
import shutil
import tarfile

NAME = "bench-busybox:1"


def busybox_tar(path):
    """Write the tar from the machine's own busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("no busybox (hint: apt-get install busybox-static)")
    with tarfile.open(path, "w") as tar:
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        with open(busybox, "rb") as program:
            content = program.read()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
        for name in ["sh", "sleep", "true"]:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return path
