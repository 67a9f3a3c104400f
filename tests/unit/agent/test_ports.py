"""Ports of masquerading against the host's own: what is written to which sysctl, and when nothing is."""

from pathlib import Path

import pytest

from pilus_agent.datapath.ports import reserve
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
