"""Ports and ICMP types of policy elements -> port ranges.

In: models of resources.policyports. Out: rules.Ports. An absent list is None; one that names nothing is empty.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pilus_api.protocols import ICMP, ICMPV6, SCTP, TCP, UDP
from pilus_api.resources.policyports import IcmpRule, PortDenyRule, PortProtocol, PortRule
from pilus_api.rules import Ports

PROTOCOLS: Mapping[str, tuple[int, ...]] = {"TCP": (TCP,), "UDP": (UDP,), "SCTP": (SCTP,), "ANY": (TCP, UDP, SCTP)}
LAST_PORT: Final = 65535


def _number(text: str) -> int | None:
    """The number; None for a name. A leading zero means octal, as in C."""
    if not text.isdigit():
        return None
    return int(text, 8 if text.startswith("0") else 10)


def _rows(held: PortProtocol) -> Iterable[Ports]:
    number = _number(held.port)
    for protocol in PROTOCOLS[(held.protocol or "ANY").upper()]:
        if number is None:
            # Names have one case in Kubernetes; a policy may write another.
            yield Ports(protocol, 0, 0, held.port.lower())
        elif number == 0 and not held.end_port:
            yield Ports(protocol, 0, LAST_PORT)
        else:
            yield Ports(protocol, number, max(number, held.end_port or 0))


def ports(rules: Iterable[PortDenyRule]) -> tuple[Ports, ...]:
    """Every port of the rules, sorted. A rule without ports names nothing."""
    return tuple(sorted({row for rule in rules for held in rule.ports or () for row in _rows(held)}))


def icmp_types(rules: Iterable[IcmpRule]) -> tuple[Ports, ...]:
    found = set()
    for rule in rules:
        for held in rule.fields_ or ():
            number = held.number()
            found.add(Ports(ICMP if held.family == "IPv4" else ICMPV6, number, number))
    return tuple(sorted(found))


def only_layer_7(rule: PortDenyRule) -> bool:
    """Whether rules of layer 7 are all that restricts its ports further."""
    return isinstance(rule, PortRule) and not any((rule.terminating_tls, rule.originating_tls, rule.server_names, rule.listener))


def unenforced_fields(rule: PortDenyRule, path: str) -> tuple[str, ...]:
    """What restricts a port further, and is not in force yet."""
    if not isinstance(rule, PortRule):
        return ()
    held: Sequence[tuple[str, object]] = (
        ("terminatingTLS", rule.terminating_tls),
        ("originatingTLS", rule.originating_tls),
        ("serverNames", rule.server_names),
        ("listener", rule.listener),
        (f"rules.{rule.l7()}", rule.l7()),
    )
    return tuple(f"{path}.{name}" for name, value in held if value)
