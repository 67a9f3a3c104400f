"""What is left of a policy object that can't be read as a whole: the parts that can, and instead of each that can't what closes all
that it could have meant.

In: raw JSON objects that `drafts_of` refuses; whoever made them believes to be restricted. Out: an object that it takes, or None
where not even whom it governs is known. An allowing part that can't be read allows nobody, a denying one denies everybody.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pilus_api.errors import InvalidError
from pilus_api.policy_kinds import BY_NAME

Raw = Mapping[str, Any]
# Whether an object makes sense.
Check = Callable[[Raw], bool]

# Beyond that, what is in a list is closed as a whole: each part is read once alone.
MOST_PARTS: Final = 1000

_SIDES: Final = {"ingress": "from", "egress": "to"}
_SECTIONS: Final = {"ingress": "ingress", "ingressDeny": "ingress", "egress": "egress", "egressDeny": "egress"}
_KNOWN: Final = frozenset({*_SECTIONS, "endpointSelector", "nodeSelector", "enableDefaultDeny", "labels", "description"})
_ALLOWING: Final = ("Allow", "Accept")
_NOBODY: Final[Raw] = {"podSelector": {"matchExpressions": [{"key": "a", "operator": each} for each in ("Exists", "DoesNotExist")]}}


def salvaged(obj: Raw, read: Callable[[Raw], object]) -> dict[str, Any] | None:
    """`read` raises InvalidError for what makes no sense. None: nothing can be made of it."""

    def sensible(candidate: Raw) -> bool:
        try:
            read(candidate)
        except InvalidError:
            return False
        return True

    kind = BY_NAME.get(str(obj.get("kind", "")))
    if kind is None:
        return None
    bare = {key: obj[key] for key in ("apiVersion", "kind", "metadata") if key in obj}
    if kind.short == "knp":
        found = {**bare, "spec": _kubernetes(bare, _mapping(obj.get("spec")), sensible)}
    elif kind.short in ("cnp", "ccnp"):
        given = [obj["spec"]] if "spec" in obj else []
        given += _parts(obj.get("specs"))
        specs = [
            made for spec in given if (made := _cilium(bare, _mapping(spec), sensible, namespaced=kind.namespaced)) is not None
        ]
        found = {**bare, "specs": specs}
    else:
        found = {**bare, "spec": _admin(bare, _mapping(obj.get("spec")), sensible)}
    return found if sensible(found) else None


def _mapping(held: Any) -> Raw:
    return held if isinstance(held, Mapping) else {}


def _parts(held: Any) -> list[Any]:
    """Of a list; what should be one and is not is a part that can't be read."""
    if held is None:
        return []
    return list(held) if isinstance(held, list | tuple) else [held]


def _each(held: Any, good: Check, instead: Callable[[Any], Raw]) -> list[Raw]:
    """Every part has its place: where a rule is written is told by its number."""
    parts = _parts(held)
    if len(parts) > MOST_PARTS:
        parts = [None]
    return [part if isinstance(part, Mapping) and good(part) else instead(part) for part in parts]


def _kubernetes(bare: Raw, spec: Raw, sensible: Check) -> dict[str, Any]:
    whole = {key: value for key, value in spec.items() if key in ("podSelector", "policyTypes") and value is not None}
    if not sensible({**bare, "spec": whole}):
        whole = {"podSelector": whole["podSelector"]} if "podSelector" in whole else {}
        whole = whole if sensible({**bare, "spec": whole}) else {}
        whole["policyTypes"] = ["Ingress", "Egress"]
    if not whole.get("policyTypes"):
        whole["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    for section, side in _SIDES.items():
        whole[section] = _each(spec.get(section), _alone(bare, {}, section, sensible), partial(_instead, {side: [_NOBODY]}))
    return whole


def _instead(closed: Raw, _: Any) -> Raw:
    return closed


def _alone(bare: Raw, spec: Raw, section: str, sensible: Check) -> Check:
    """Whether a part makes sense as the only one of its section."""
    return lambda part: sensible({**bare, "spec": {**spec, section: [part]}})


def _cilium(bare: Raw, spec: Raw, sensible: Check, *, namespaced: bool) -> dict[str, Any] | None:
    subject = {key: spec[key] for key in ("endpointSelector", "nodeSelector") if spec.get(key) is not None}
    if not sensible({**bare, "spec": subject}):
        if not namespaced:
            return None
        subject = {"endpointSelector": {}}  # all that the policy could have meant
    made: dict[str, Any] = dict(subject)
    if spec.keys() - _KNOWN:  # a section may be mistyped
        made["enableDefaultDeny"] = {"ingress": True, "egress": True}
    elif sensible({**bare, "spec": {**subject, "enableDefaultDeny": spec.get("enableDefaultDeny")}}):
        made["enableDefaultDeny"] = spec.get("enableDefaultDeny")
    for section, direction in _SECTIONS.items():
        closed: Raw = {f"{_SIDES[direction]}Entities": ["all"]} if section.endswith("Deny") else {}
        if spec.get(section) is not None:
            made[section] = _each(spec[section], _alone(bare, subject, section, sensible), partial(_instead, closed))
    return made


def _admin(bare: Raw, spec: Raw, sensible: Check) -> dict[str, Any]:
    whole = {key: value for key, value in spec.items() if key in ("priority", "tier", "subject")}
    alone = {section: _alone(bare, whole, section, sensible) for section in _SIDES}
    made = {section: _each(spec.get(section), alone[section], partial(_unknown, side)) for section, side in _SIDES.items()}
    return {**whole, **made}


def _unknown(side: str, rule: Any) -> Raw:
    """A rule with a peer of no known sort, which fails closed as that API wants it."""
    action = _mapping(rule).get("action")
    return {"action": action if action in _ALLOWING else "Deny", side: [{}]}
