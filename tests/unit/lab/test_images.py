"""One-layer OCI archives."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from pilus_lab.binaries import Image


def test_an_archive_is_the_same_for_the_same_contents_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    image = Image("thing", {"bin/thing": program}, ("/bin/thing",), {"bin/link": "thing"}, {"etc/passwd": "root\n"})
    first = image.archive()
    made = first.stat().st_mtime_ns
    assert image.archive() == first
    assert first.stat().st_mtime_ns == made
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert image.archive().read_bytes() == first.read_bytes()


def test_every_blob_is_named_by_its_digest_and_the_layer_holds_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = tmp_path / "program"
    program.write_bytes(b"run me")
    archive = Image("thing", {"bin/thing": program}, ("/bin/thing", "-v"), {"bin/link": "thing"}, {}).archive()
    with tarfile.open(archive) as outer:
        blobs = {m.name: outer.extractfile(m).read() for m in outer if m.name.startswith("blobs/")}  # type: ignore[union-attr]
        index = json.load(outer.extractfile("index.json"))  # type: ignore[arg-type]
    assert all(name == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}" for name, blob in blobs.items())
    named = index["manifests"][0]
    assert named["annotations"]["io.containerd.image.name"] == "lab.local/thing:1"
    manifest = json.loads(blobs[f"blobs/sha256/{named['digest'][7:]}"])
    configuration = json.loads(blobs[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    assert configuration["config"]["Entrypoint"] == ["/bin/thing", "-v"]
    with tarfile.open(fileobj=io.BytesIO(blobs[f"blobs/sha256/{manifest['layers'][0]['digest'][7:]}"])) as layer:
        held = layer.extractfile("bin/thing")
        assert held is not None
        assert held.read() == b"run me"
        assert layer.getmember("bin/thing").mode == 0o755
        assert layer.getmember("bin/link").linkname == "thing"
