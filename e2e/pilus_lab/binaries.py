"""Where the programs of the lab are, and the container images made from some of them.

In: the folder that e2e/binaries/build.sh fills, and Debian's packages. Out: paths; images as one-layer OCI archives. Builds no
program itself: `e2e/bootstrap.sh` does.
"""

import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pilus_lab.oci import Process, write_archive
from pilus_lab.spec import cache

_BUILD = Path(__file__).resolve().parents[1] / "binaries" / "build.sh"
REGISTRY = "lab.local"


class MissingBinaryError(RuntimeError):
    """Something that the lab runs is not on this machine."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is missing: run e2e/bootstrap.sh (it builds and installs what the lab runs)")


def folder() -> Path:
    """The folder of the built binaries, whether they are there or not."""
    said = subprocess.run([str(_BUILD), "--where"], capture_output=True, text=True, check=True)
    return Path(said.stdout.strip())


def built(name: str) -> Path:
    """One built binary. Raises MissingBinaryError."""
    path = folder() / name
    if not path.exists():
        raise MissingBinaryError(path.name)
    return path


def packaged(*paths: str) -> Path:
    """The first of the paths that a Debian package may have put a program at. Raises MissingBinaryError."""
    for path in paths:
        if Path(path).exists():
            return Path(path)
    raise MissingBinaryError(paths[0])


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one layer: files by their path inside, links, and what runs."""

    name: str
    files: dict[str, Path]
    entrypoint: tuple[str, ...]
    links: dict[str, str]
    texts: dict[str, str]

    @property
    def reference(self) -> str:
        return f"{REGISTRY}/{self.name}:1"

    def archive(self) -> Path:
        """The OCI archive, made once for the same contents."""
        digest = hashlib.sha256(repr((sorted(self.links.items()), sorted(self.texts.items()), self.entrypoint)).encode())
        for inside, path in sorted(self.files.items()):
            digest.update(f"{inside} {path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
        out = cache() / "images" / f"{self.name}-{digest.hexdigest()[:16]}.tar"
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            write_archive(out, self.reference, [self._layer()], Process(self.entrypoint))
        return out

    def _layer(self) -> bytes:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as layer:
            for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "run"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                layer.addfile(entry)
            for inside, path in sorted(self.files.items()):
                entry = tarfile.TarInfo(inside)
                entry.size, entry.mode = path.stat().st_size, 0o755
                with path.open("rb") as read:
                    layer.addfile(entry, read)
            for inside, text in sorted(self.texts.items()):
                entry = tarfile.TarInfo(inside)
                entry.size, entry.mode = len(text.encode()), 0o644
                layer.addfile(entry, io.BytesIO(text.encode()))
            for inside, target in sorted(self.links.items()):
                entry = tarfile.TarInfo(inside)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                layer.addfile(entry)
        return held.getvalue()


def images() -> list[Image]:
    """What pods of the lab may run; ``imagePullPolicy: Never``, since there is no image registry."""
    busybox = packaged("/bin/busybox", "/usr/bin/busybox")
    applets = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    passwd = {"etc/passwd": "root:x:0:0:root:/:/bin/sh\n"}
    # It serves as the pause image too: it sleeps, and buries what its pod's containers leave.
    sleep = "trap exit TERM INT; while :; do /bin/busybox sleep 2147483647 & wait; done"
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    return [
        Image("pause", {"bin/busybox": busybox}, ("/bin/busybox", "sh", "-c", sleep), {}, passwd),
        Image("busybox", {"bin/busybox": busybox}, ("/bin/sh",), links, passwd),
        Image("agnhost", {"agnhost": built("agnhost")}, ("/agnhost",), {"bin/agnhost": "/agnhost"}, passwd),
        Image("coredns", {"coredns": built("coredns")}, ("/coredns",), {}, passwd),
    ]
