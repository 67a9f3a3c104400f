"""SCTP as far as it is asked: INITs, which a raw socket can send and hear where the kernel doesn't know the protocol."""

import struct
from typing import Final

from scapy.layers.sctp import crc32c

PROTOCOL: Final = 132
_INIT: Final = 1


def init(source_port: int, port: int, tag: int) -> bytes:
    """An INIT without IP header (RFC 9260 3.3.2): the tag is the sender's, so it says whose it is."""
    chunk = struct.pack("!BBHIIHHI", _INIT, 0, 20, tag, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source_port, port, 0)
    checksum: int = crc32c(head + b"\0\0\0\0" + chunk)
    return head + struct.pack("!I", checksum) + chunk


def tag_of(packet: bytes, family: int) -> int:
    """Of an INIT as a raw socket gives it: in IPv4 with its header. 0 of anything else."""
    sctp = packet[(packet[0] & 15) * 4 :] if family == 4 else packet
    return int.from_bytes(sctp[16:20], "big") if len(sctp) >= 32 and sctp[12] == _INIT else 0
