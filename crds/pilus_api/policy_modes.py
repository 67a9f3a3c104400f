"""Modes: whether a policy is enforced, or in audit: what it would deny passes, is counted and told.

In: annotations and a setting. Out: a mode. A word that is none enforces: a mistyped annotation opens nothing.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

# On a policy, or on a namespace for the policies in it; the policy's own goes first. Nothing else may switch a policy off.
MODE_ANNOTATION: Final = "pilus.io/mode"


class Mode(StrEnum):
    ENFORCE = "enforce"
    AUDIT = "audit"


def mode_of(policy: Mapping[str, Any], namespace: str, everywhere: bool) -> tuple[Mode, str]:
    """The mode, and what is wrong with what is said about it, "" if nothing is.

    `policy`: the object. `namespace`: its namespace's annotation, "" without one. `everywhere`: the setting policy-audit-mode.
    """
    annotations = policy["metadata"].get("annotations") or {}
    said = annotations.get(MODE_ANNOTATION) if isinstance(annotations, Mapping) else None
    if said is None or said == "":  # an empty one says nothing
        said = namespace
    if said == "":
        return (Mode.AUDIT if everywhere else Mode.ENFORCE), ""
    try:
        return Mode(said), ""
    except ValueError:
        return Mode.ENFORCE, f"annotation {MODE_ANNOTATION} is {said!r:.100}, and not enforce or audit: it is enforced"
