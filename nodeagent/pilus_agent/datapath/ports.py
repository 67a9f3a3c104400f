"""The ports that masquerading gives out, kept from the host's own sockets.

In: the range. Out: whether something had to be written. Touches one sysctl, and that only where the host's automatic choice
(ip_local_port_range) overlaps the range: there the kernel is told to leave our ports out. What others have reserved stays. While we
run nothing is taken back: a port that we gave out may still be in use; `restored` is for the removal of Pilus. Blocks.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pilus_agent.datapath.changes import Ledger, sysctls
from pilus_api.errors import PilusError

_RANGE: Final = "ip_local_port_range"
RESERVED: Final = "net/ipv4/ip_local_reserved_ports"  # for both families


def _ranges(text: str) -> list[tuple[int, int]]:
    """`8080,9000-9010` as the kernel writes it."""
    found = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
    return found


def reserve(first: int, last: int, folder: Path | None = None, ledger: Ledger | None = None) -> bool:
    """Raises PilusError."""
    folder = folder or sysctls() / "net" / "ipv4"
    reserved = folder / Path(RESERVED).name
    try:
        lowest, highest = (int(word) for word in (folder / _RANGE).read_text().split())
        if last < lowest or first > highest:
            return False
        held = reserved.read_text().strip()
        if any(one <= first and last <= other for one, other in _ranges(held)):
            return False
        if ledger is not None:
            ledger.ports(held, f"{first}-{last}")
        reserved.write_text(",".join(filter(None, (held, f"{first}-{last}"))))
    except (OSError, ValueError) as error:
        raise PilusError(f"can't reserve the ports {first}-{last} for masquerading: {error}") from error
    return True


def restored(now: str, before: str, ours: Iterable[str]) -> str:
    """What is reserved without us: what others have reserved meanwhile stays. Pure."""

    def ports(text: str) -> set[int]:
        return {port for first, last in _ranges(text) for port in range(first, last + 1)}

    left = sorted(ports(now) - ({port for text in ours for port in ports(text)} - ports(before)))
    spans: list[list[int]] = []
    for port in left:
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
