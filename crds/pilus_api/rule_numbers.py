"""How the agent's list of rules names them (docs/agent-api.md), for who writes the list and for who looks up in it."""

from typing import Final

# Above the numbers of rules: a policy has at most ROW_BUDGET rows.
_DEFAULT_DENY: Final = 0xFFFE


def rule_number(policy: int, rule: int) -> int:
    """Of a rule of a policy, both as the kernel numbers them."""
    return policy << 16 | rule


def split_default_deny(number: int) -> tuple[int, int] | None:
    """The policy and the direction of what `default_deny` names; None for a rule's number."""
    rule = number & 0xFFFF
    return (number >> 16, rule - _DEFAULT_DENY) if rule >= _DEFAULT_DENY else None


def default_deny(policy: int, direction: int) -> int:
    """In place of a rule: what refuses in a direction (rules.Direction) where none matches."""
    return rule_number(policy, _DEFAULT_DENY + direction)
