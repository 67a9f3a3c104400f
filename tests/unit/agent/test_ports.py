"""Ports of masquerading against the host's own: what is written to which sysctl, and when nothing is."""

from pathlib import Path

import pytest

from pilus_agent.datapath import changes
from pilus_agent.datapath.changes import Changes, Ledger
from pilus_agent.datapath.ports import reserve, restored
from pilus_api.errors import PilusError


@pytest.mark.parametrize(
    ("local", "held", "after"),
    [
        ("32768\t60999\n", "\n", "\n"),  # the kernel's default lies below
        ("32768\t61000\n", "\n", "61000-65535"),
        ("1024 65535", "", "61000-65535"),
        ("1024 65535", "8080,9000-9010\n", "8080,9000-9010,61000-65535"),
        ("1024 65535", "61000-65535\n", "61000-65535\n"),
        ("1024 65535", "50000-65535\n", "50000-65535\n"),
        ("1024 65535", "61000-61010,61012-65535", "61000-61010,61012-65535,61000-65535"),  # the kernel joins them
    ],
)
def test_what_is_written(tmp_path: Path, local: str, held: str, after: str) -> None:
    (tmp_path / "ip_local_port_range").write_text(local)
    (tmp_path / "ip_local_reserved_ports").write_text(held)
    assert reserve(61000, 65535, tmp_path) == (held != after)
    assert (tmp_path / "ip_local_reserved_ports").read_text() == after


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(PilusError, match="61000-65535"):
        reserve(61000, 65535, tmp_path)


@pytest.mark.parametrize(
    ("now", "before", "ours", "after"),
    [
        ("61000-65535", "", ["61000-65535"], ""),
        ("8080,61000-65535", "8080", ["61000-65535"], "8080"),
        ("8080,9000,61000-65535", "8080", ["61000-65535"], "8080,9000"),  # somebody else has reserved one meanwhile
        ("60000-65535", "60000-61010", ["61000-65535"], "60000-61010"),  # the kernel had joined them
        ("50000-50010,61000-65535", "", ["50000-50010", "61000-65535"], ""),  # the setting was changed
        ("", "8080", ["61000-65535"], ""),  # somebody else has emptied it: that is theirs
    ],
)
def test_what_is_given_back(now: str, before: str, ours: list[str], after: str) -> None:
    assert restored(now, before, ours) == after


def test_what_was_there_is_written_down_before_it_is_changed(tmp_path: Path) -> None:
    (tmp_path / "ip_local_port_range").write_text("1024 65535")
    (tmp_path / "ip_local_reserved_ports").write_text("8080\n")
    ledger = tmp_path / "state" / changes.NAME
    reserve(61000, 65535, tmp_path, Ledger(ledger))
    reserve(50000, 50010, tmp_path, Ledger(ledger))
    Ledger(ledger).clsact("eth0")
    assert changes.read(ledger) == Changes(changes.boot(), "8080", ["61000-65535", "50000-50010"], ["eth0"])
    assert changes.read(ledger).reserved_before == "8080", "what was there before the first of us"


def test_what_an_earlier_boot_wrote_down_is_gone_with_it(tmp_path: Path) -> None:
    path = tmp_path / changes.NAME
    path.write_text('{"boot": "another", "reserved_before": "8080", "reserved": ["1-2"], "clsact": ["eth0"]}')
    assert changes.read(path) == Changes(changes.boot())
    path.write_text("{")
    assert changes.read(path) == Changes(changes.boot())
