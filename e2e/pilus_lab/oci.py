"""OCI images as files: layers and what runs, in one archive that `ctr images import` takes.

In: layers as tar files, or as a folder to make one of. Out: the same bytes for the same contents: no time, no owner, names in
order.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """What a container runs if nothing else is said, and with which environment."""

    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ("PATH=/bin",)


def digest_of(blob: bytes | Path) -> str:
    found = hashlib.sha256()
    if isinstance(blob, bytes):
        found.update(blob)
    else:
        with blob.open("rb") as read:
            while chunk := read.read(_CHUNK):
                found.update(chunk)
    return f"sha256:{found.hexdigest()}"


def _size(blob: bytes | Path) -> int:
    return len(blob) if isinstance(blob, bytes) else blob.stat().st_size


def _descriptor(kind: str, blob: bytes | Path) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(blob), "size": _size(blob)}


def layer_of(root: Path, out: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Everything below `root` as a layer at `out`, which appears whole. Nobody but root owns anything; no file keeps a bit that
    would lend its owner's rights."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    with tarfile.open(scratch, "w", format=tarfile.GNU_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            inside = str(path.relative_to(root))
            if not wanted(inside):
                continue
            entry = layer.gettarinfo(str(path), inside)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            entry.mode &= 0o1777
            if entry.islnk():  # two names of one file: each becomes a file, so that a layer does not depend on which came first
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            if entry.isreg():
                with path.open("rb") as read:
                    layer.addfile(entry, read)
            else:
                layer.addfile(entry)
    scratch.replace(out)


def write_archive(out: Path, reference: str, layers: Sequence[bytes | Path], process: Process) -> None:
    """The archive at `out`; it appears whole."""
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(process.entrypoint), "Env": list(process.env)},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("config.v1+json", configuration),
            "layers": [_descriptor("layer.v1.tar", layer) for layer in layers],
        }
    ).encode()
    named = _descriptor("manifest.v1+json", manifest)
    named["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]}).encode()
    members: Mapping[str, bytes | Path] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": index,
        **{f"blobs/sha256/{digest_of(blob)[7:]}": blob for blob in (configuration, manifest, *layers)},
    }
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    with tarfile.open(scratch, "w") as archive:
        for name, blob in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = _size(blob)
            if isinstance(blob, bytes):
                archive.addfile(entry, io.BytesIO(blob))
            else:
                with blob.open("rb") as read:
                    archive.addfile(entry, read)
    scratch.replace(out)
