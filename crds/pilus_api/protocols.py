"""Protocols above IP that policies speak of, by their number in the IP header, and how people call them."""

from collections.abc import Mapping
from typing import Final

TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132
ICMP: Final = 1
ICMPV6: Final = 58

PROTOCOL_NAMES: Final[Mapping[int, str]] = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPv6", SCTP: "SCTP"}
