"""Numbers of the datapath in words."""

from typing import Any

import pytest

from pilus_observer import words
from pilus_observer.words import Words


@pytest.mark.parametrize(
    ("number", "text"), [(1, "ICMP"), (6, "TCP"), (17, "UDP"), (58, "ICMPv6"), (132, "SCTP"), (47, "47"), (0, "0")]
)
def test_protocol(number: int, text: str) -> None:
    assert words.protocol(number) == text


@pytest.mark.parametrize(
    ("family", "raw", "text"),
    [
        (4, bytes([10, 0, 0, 1]) + bytes(12), "10.0.0.1"),
        (6, bytes([0xFD]) + bytes(14) + b"\1", "fd00::1"),
        (0, bytes(16), None),
        (9, bytes(16), None),
    ],
)
def test_address(family: int, raw: bytes, text: str | None) -> None:
    assert words.address(family, raw) == text


@pytest.mark.parametrize(
    ("number", "text", "flow"),
    [
        (133, "Policy denied", "POLICY_DENIED"),
        (134, "Invalid packet", "INVALID_PACKET_DROPPED"),
        (135, "CT: Truncated or invalid header", "CT_TRUNCATED_OR_INVALID_HEADER"),
        (136, "Fragmentation needed", "CT_MISSING_TCP_ACK_FLAG"),  # the text is newer than the name
        (156, "Invalid IPv6 extension header", "INVALID_IPV6_EXTENSION_HEADER"),
        (181, "Policy denied by denylist", "POLICY_DENY"),
        (182, "VLAN traffic disallowed by VLAN filter", "VLAN_FILTERED"),
        (183, "Incorrect VNI from VTEP", "INVALID_VNI"),
        (203, "Endpoint policy program not available", "DROP_EP_NOT_READY"),
        (230, "IP options are not accepted", "IP_OPTIONS_ARE_NOT_ACCEPTED"),
        (229, "reason 229", "REASON_229"),
    ],
)
def test_reason(description: dict[str, Any], number: int, text: str, flow: str) -> None:
    known = Words(description)
    assert known.reason(number) == text
    assert known.flow_reason(number) == flow


@pytest.mark.parametrize(
    ("hook", "reason", "decided", "rule", "direction"),
    [
        ("POD_FROM", 132, 0, 0, "egress"),  # nobody's policy was asked: the way of the hook
        ("POD_TO", 203, 0, 0, "ingress"),
        ("POD_FROM", 133, 0, 0, "ingress"),  # the receiver's policy, asked at the sender's hook
        ("POD_FROM", 181, 1, 3, "egress"),
        ("POD_FROM", 0, 0, 1, "ingress"),  # passed by a rule of the receiver's
        ("OVERLAY_FROM", 0, 0, 0, "ingress"),
        ("OVERLAY_TO", 0, 0, 0, "egress"),
    ],
)
def test_direction(description: dict[str, Any], hook: str, reason: int, decided: int, rule: int, direction: str) -> None:
    number = description["enums"]["pilus_hook"][f"PILUS_HOOK_{hook}"]
    assert Words(description).direction(number, reason, decided, rule) == direction


def test_newer_programs_are_no_error(description: dict[str, Any]) -> None:
    known = Words(description)
    assert known.hook(99) == "hook 99"
    assert known.hook_direction(99) is None
    assert known.path(99) == "path 99"
    assert "count" not in known.names("pilus_hook").values()
    assert Words({"enums": {}, "texts": {}}).reason(133) == "reason 133"
