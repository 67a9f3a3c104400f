"""Which slot of `generation` stands for an address that is no local endpoint's (bpf/abi.h says the rule).

In: the 16 bytes of a struct pilus_address. Out: a slot. Two addresses may share one: a flow then decides anew for nothing.
"""

import struct
from typing import Final

EVERYTHING: Final = 0  # the slot whose rise makes every conclusion stale
_ADDRESSES: Final = 32768  # PILUS_GENERATION_ADDRESSES: endpoints have the slots below
_FACTOR: Final = 0x9E3779B1


def slot_of(address: bytes) -> int:
    """As pilus_slot_of() in bpf/decide.h."""
    one, two, three, four = struct.unpack("=4I", address)
    return _ADDRESSES + (((one ^ two ^ three ^ four) * _FACTOR & 0xFFFFFFFF) >> 17)
