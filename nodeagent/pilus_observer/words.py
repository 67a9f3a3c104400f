"""The datapath's numbers in words: hooks, drop reasons, directions, protocols, addresses.

In: the description that the loader wrote, and numbers out of maps and events. Out: text. Never raises for a number it does not
know: programs may be newer than this process.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from pilus_api.protocols import PROTOCOL_NAMES
from pilus_api.rule_numbers import default_deny, rule_number

ICMP = frozenset({1, 58})
FORWARDED, DROPPED, AUDIT = "FORWARDED", "DROPPED", "AUDIT"
INGRESS, EGRESS = "ingress", "egress"

# What a hook sees goes to a pod or comes from one.
_HOOK_DIRECTIONS = {
    "pod_from": EGRESS,
    "pod_to": INGRESS,
    "overlay_from": INGRESS,
    "overlay_to": EGRESS,
    "uplink_from": INGRESS,
    "uplink_to": EGRESS,
}
# These reasons come from a policy: the event says which direction's.
_POLICY_REASONS = ("PILUS_DROP_POLICY", "PILUS_DROP_POLICY_DENY", "PILUS_DROP_UNKNOWN_IDENTITY")
# The flow tools' names for reasons are their texts in capitals, but for these. They keep the name that a number once had.
_FLOW_REASONS = {
    134: "INVALID_PACKET_DROPPED",
    136: "CT_MISSING_TCP_ACK_FLAG",
    181: "POLICY_DENY",
    182: "VLAN_FILTERED",
    183: "INVALID_VNI",
    203: "DROP_EP_NOT_READY",
}


def protocol(number: int) -> str:
    return PROTOCOL_NAMES.get(number, str(number))


def address(family: int, raw: bytes) -> str | None:
    """The 16 bytes of a struct pilus_address as text; None where there is no address."""
    if family == 4:
        return str(ipaddress.IPv4Address(raw[:4]))
    if family == 6:
        return str(ipaddress.IPv6Address(raw))
    return None


class Words:
    """One datapath's enums and texts."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        enums: Mapping[str, Mapping[str, int]] = description["enums"]
        texts: Mapping[str, str] = description["texts"]
        self._enums = enums
        self._hooks = self.names("pilus_hook")
        self._paths = self.names("pilus_path")
        self._directions = self.names("pilus_direction")
        drops = enums.get("pilus_drop", {})
        self._reasons = {number: texts.get(name, name) for name, number in drops.items()}
        self._of_policy = frozenset(drops[name] for name in _POLICY_REASONS if name in drops)
        self.audited = enums.get("pilus_count", {}).get("PILUS_COUNT_AUDITED", -1)
        self._no_rule = drops.get("PILUS_DROP_POLICY", -1)
        self.hook_count = enums.get("pilus_hook", {}).get("PILUS_HOOK_COUNT", len(self._hooks))

    def names(self, enum: str, prefix: str = "") -> dict[int, str]:
        """`pilus_hook` -> {0: "pod_from", ...}. `prefix`: of the constants, if it is not the enum's name."""
        prefix = prefix or f"{enum.upper()}_"
        constants = self._enums.get(enum, {})
        return {number: name.removeprefix(prefix).lower() for name, number in constants.items() if not name.endswith("_COUNT")}

    def hook(self, number: int) -> str:
        return self._hooks.get(number, f"hook {number}")

    def path(self, number: int) -> str:
        return self._paths.get(number, f"path {number}")

    def reason(self, number: int) -> str:
        return self._reasons.get(number, f"reason {number}")

    def hook_direction(self, hook: int) -> str | None:
        return _HOOK_DIRECTIONS.get(self.hook(hook))

    def direction(self, hook: int, reason: int, decided: int, rule: int, audited: int = 0) -> str | None:
        """Whose policy decided, else which way the hook's packets go: a program that asked no policy leaves `decided` zero."""
        by_policy = reason in self._of_policy or ((rule or audited) and not reason)
        return self._directions.get(decided) if by_policy else self.hook_direction(hook)

    def rule_number(self, record: Mapping[str, Any]) -> int:
        """What names the rule that decided in the agent's list of rules (agent-api.md); 0 where none did."""
        if record["rule"]:
            return rule_number(int(record["policy"]), int(record["rule"]))
        refused = record["reason"] == self._no_rule or record["audited"]
        if not (refused and record["policy"]):
            return 0
        return default_deny(int(record["policy"]), int(record["direction"]))

    def flow_reason(self, number: int) -> str:
        """The reason's name in the flow tools' metrics."""
        listed = _FLOW_REASONS.get(number)
        if listed:
            return listed
        return (
            "".join(letter if letter.isalnum() else " " for letter in self.reason(number))
            .upper()
            .replace("  ", " ")
            .replace(" ", "_")
        )
