"""What a program costs, read from its instructions."""

import struct
from pathlib import Path

import pytest

from pilus_agent.datapath import programs
from pilus_agent.datapath.programs import Cost, ensure_loaded, sources, stack_of
from pilus_api.errors import PilusError


def _code(*instructions: tuple[int, int, int, int, int]) -> bytes:
    """(code, destination, source, offset, immediate)"""
    return b"".join(struct.pack("=BBhi", code, source << 4 | to, offset, value) for code, to, source, offset, value in instructions)


@pytest.mark.parametrize(("instructions", "deepest"), [
    ([(0x95, 0, 0, 0, 0)], 0),
    ([(0x7B, 10, 1, -8, 0)], 8),  # *(u64 *)(r10 - 8) = r1
    ([(0x61, 1, 10, -24, 0)], 24),  # r1 = *(u32 *)(r10 - 24)
    ([(0xBF, 2, 10, 0, 0), (0x07, 2, 0, 0, -64)], 64),  # r2 = r10; r2 += -64
    ([(0xB7, 2, 0, 0, 0), (0x07, 2, 0, 0, -64)], 0),  # r2 = 0; r2 += -64
    ([(0xBF, 2, 10, 0, 0), (0xB7, 2, 0, 0, 0), (0x07, 2, 0, 0, -64)], 0),
])  # fmt: skip
def test_the_deepest_byte_of_the_frame(instructions: list[tuple[int, int, int, int, int]], deepest: int) -> None:
    assert stack_of(_code(*instructions)) == deepest


def test_limits() -> None:
    assert Cost("one", True, 800, 1000, 100).complaints == []
    assert Cost("one", False, 801, 1000, 100).complaints == []
    assert Cost("one", True, 801, 1000, 100).complaints == ["801 instructions, at most 800"]
    assert len(Cost("one", False, 5000, 200_000, 500).complaints) == 3


def test_the_sources_are_found() -> None:
    assert (sources() / "pod.c").exists()


def test_the_loaders_one_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PilusError, match="is not on a BPF file system"):
        ensure_loaded(tmp_path / "pins", tmp_path / "description.json", tmp_path, {})
    monkeypatch.setattr(programs, "_PYTHON", str(tmp_path / "no-python"))
    with pytest.raises(PilusError, match="can't start the loader"):
        ensure_loaded(tmp_path / "pins", tmp_path / "description.json", tmp_path, {})
