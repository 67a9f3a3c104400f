"""Rule numbers in words."""

import os
from pathlib import Path

import pytest

from pilus_observer.rules import Rules, parse


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"1": "kind/d/p ingress[0]", "x": "y", "-1": "y", "2": 5}', {1: "kind/d/p ingress[0]"}),
        (b"{}", {}),
        (b"[]", None),
        (b"", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_parse(raw: bytes, expected: dict[int, str] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError):
            parse(raw)
    else:
        assert parse(raw) == expected


async def test_the_file_is_read_when_it_comes_changes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    rules = Rules(path)
    await rules.refresh()
    assert rules.text(1) is None
    path.write_text('{"1": "one"}')
    await rules.refresh()
    assert (rules.text(1), rules.text(0)) == ("one", None)
    path.write_text('{"1": "two"}')
    os.utime(path, ns=(1, 1))
    await rules.refresh()
    assert rules.text(1) == "two"
    path.write_text("{broken")
    await rules.refresh()
    assert rules.text(1) == "two"  # rather old names than none
    path.unlink()
    await rules.refresh()
    assert rules.text(1) is None
