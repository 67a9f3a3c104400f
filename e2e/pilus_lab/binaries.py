"""Where the programs of the lab are, and the container images made from some of them.

In: the folder that e2e/binaries/build.sh fills, and Debian's packages. Out: paths; images as one-layer OCI archives, the same
bytes for the same contents. Builds nothing itself: `e2e/bootstrap.sh` does.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

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
            scratch = out.with_suffix(f".{hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:8]}")
            self._write(scratch)
            scratch.replace(out)
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

    def _write(self, out: Path) -> None:
        layer = self._layer()
        configuration = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": list(self.entrypoint), "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
                "history": [{"created": "1970-01-01T00:00:00Z"}],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("config.v1+json", configuration),
                "layers": [_descriptor("layer.v1.tar", layer)],
            }
        ).encode()
        named = _descriptor("manifest.v1+json", manifest)
        named["annotations"] = {"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": "1"}
        index = json.dumps(
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]}
        ).encode()
        with tarfile.open(out, "w") as archive:
            members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
            members |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (configuration, manifest, layer)}
            for name, blob in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(blob)
                archive.addfile(entry, io.BytesIO(blob))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(blob), "size": len(blob)}


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
