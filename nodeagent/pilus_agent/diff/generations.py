"""Which generations a written row raises: the flows that were decided with the old row decide anew with their next packet. Pure.

The scheme is that of bpf/abi.h (`generation`): slot 0 is everything, a local endpoint has a slot of its own, any other address
one by its hash. What no flow can have rested on raises nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

EVERYTHING: Final = 0
_ENDPOINT_SLOTS: Final = 32767
_ADDRESSES: Final = 32768
_FACTOR: Final = 0x9E3779B1

# Tables whose rows stand for an address; a change of the others named here is everybody's.
_BY_ADDRESS: Final = frozenset({"endpoints", "ipcache"})
_EVERYBODYS: Final = frozenset({"settings", "pod_ranges"})


def endpoint_slot(number: int) -> int:
    """Of an endpoint by its number, 1 to 65535; two may share one, which costs a decision now and then."""
    return (number - 1) % _ENDPOINT_SLOTS + 1


def address_slot(address: bytes) -> int:
    """Of an address that is no local endpoint's; `address` is a struct pilus_address."""
    word = 0
    for start in range(0, 16, 4):
        word ^= int.from_bytes(address[start : start + 4], "little")
    return _ADDRESSES + ((word * _FACTOR & 0xFFFF_FFFF) >> 17)


def raised(table: str, key: Mapping[str, Any], values: Iterable[Mapping[str, Any] | None]) -> set[int]:
    """`values`: what the row was and what it is, None where there was or is none."""
    if table in _EVERYBODYS:
        return {EVERYTHING}
    if table not in _BY_ADDRESS:
        return set()
    slots = {address_slot(key["address"])}
    if table == "endpoints":
        slots |= {value["slot"] for value in values if value is not None}
    return slots
