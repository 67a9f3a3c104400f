"""The ports that masquerading gives out, kept from the host's own sockets.

In: the range. Out: whether something had to be written. Touches one sysctl, and that only where the host's automatic choice
(ip_local_port_range) overlaps the range: there the kernel is told to leave our ports out. What others have reserved stays, and
nothing is ever taken back: a port that we gave out may still be in use when we are gone. Blocks.
"""

from pathlib import Path
from typing import Final

from pilus_api.errors import PilusError

_SYSCTLS: Final = Path("/proc/sys/net/ipv4")  # for both families


def _ranges(text: str) -> list[tuple[int, int]]:
    """`8080,9000-9010` as the kernel writes it."""
    found = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.append((int(first), int(last or first)))
    return found


def reserve(first: int, last: int, sysctls: Path = _SYSCTLS) -> bool:
    """Raises PilusError."""
    try:
        lowest, highest = (int(word) for word in (sysctls / "ip_local_port_range").read_text().split())
        if last < lowest or first > highest:
            return False
        held = (sysctls / "ip_local_reserved_ports").read_text().strip()
        if any(one <= first and last <= other for one, other in _ranges(held)):
            return False
        (sysctls / "ip_local_reserved_ports").write_text(",".join(filter(None, (held, f"{first}-{last}"))))
    except (OSError, ValueError) as error:
        raise PilusError(f"can't reserve the ports {first}-{last} for masquerading: {error}") from error
    return True
