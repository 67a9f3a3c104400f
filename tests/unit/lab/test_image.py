"""What the image of Pilus is made of; that it runs is for e2e/scenarios/test_install.py."""

import io
import os
import tarfile
from pathlib import Path

from pilus_lab import image
from pilus_lab.oci import layer_of


def test_what_runs_needs_no_tool_of_development() -> None:
    wanted = image.runtime_requirements()
    names = {line.split("==")[0] for line in wanted.splitlines() if "==" in line}
    assert {
        "aiohttp",
        "click",
        "kopf",
        "prometheus-client",
        "pydantic",
        "pydantic-core",
        "pyroute2",
        "pyyaml",
        "rich",
        "structlog",
    } <= names
    assert not names & {"mypy", "ruff", "pytest", "scapy", "hypothesis", "pip", "pip-tools", "coverage"}
    blocks = wanted.split("\n")
    assert sum("--hash=sha256:" in line for line in blocks) > len(names), "every one comes with its hashes"


def test_our_layer_holds_programs_sources_and_plugin_and_no_lab(tmp_path: Path) -> None:
    out = tmp_path / "ours.tar"
    image._ours(out)
    with tarfile.open(out) as layer:
        members = {member.name: member for member in layer}
    names = set(members)
    for program in ("pilus", "pilus-agent", "pilus-observer", "pilus-operator"):
        assert members[f"usr/local/bin/{program}"].mode == 0o755
    for ending in ("/pilus_cni/pilus-cni", "/pilus_agent/datapath/bpf/abi.h", "/pilus_agent/main.py", "/pilus_api/settings.py"):
        assert [name for name in names if name.endswith(ending)], ending
    assert not [name for name in names if "pilus_lab" in name or "/tests/" in name]
    first = out.read_bytes()
    image._ours(out)
    assert out.read_bytes() == first, "the same sources make the same bytes"


def test_cve_2024_33522_a_layer_lends_nobody_rights(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "su").write_bytes(b"x")
    os.chown(root / "bin" / "su", 1000, 1000)
    (root / "bin" / "su").chmod(0o6755)
    os.link(root / "bin" / "su", root / "bin" / "other")
    out = tmp_path / "layer.tar"
    layer_of(root, out)
    with tarfile.open(fileobj=io.BytesIO(out.read_bytes())) as layer:
        for member in layer:
            assert (member.uid, member.gid, member.mode & 0o6000, member.mtime) == (0, 0, 0, 0)
        for name in ("bin/su", "bin/other"):
            held = layer.extractfile(name)
            assert held is not None
            assert held.read() == b"x"
