"""What is left of a policy object that can't be read as a whole: the parts that can, and instead of each that can't what closes all
that it could have meant.

In: raw JSON objects that `drafts_of` refuses; whoever made them believes to be restricted. Out: an object that it takes, with every
part in its place, or None where not even whom it governs is known. An allowing part that can't be read allows nobody, a denying one
denies everybody. What one of the former requires of others' peers is still required, or is met by nobody; where it would restrict
what others allow, as rules of layer 7 do, they allow nothing. A namespaced policy whose selector can't be read closes its
namespace, and allows nobody anything.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from pilus_api.errors import InvalidError
from pilus_api.policy_kinds import BY_NAME, PolicyKind

Raw = Mapping[str, Any]
# Whether an object makes sense.
Check = Callable[[Raw], bool]

# Beyond that, what is in a list is closed as a whole: each part is read once alone.
MOST_PARTS: Final = 1000

_SIDES: Final = {"ingress": "from", "egress": "to"}
_SECTIONS: Final = {"ingress": "ingress", "ingressDeny": "ingress", "egress": "egress", "egressDeny": "egress"}
_OF_CILIUM: Final = frozenset({*_SECTIONS, "endpointSelector", "nodeSelector", "enableDefaultDeny", "labels", "description"})
_OF_KUBERNETES: Final = frozenset({*_SIDES, "podSelector", "policyTypes"})
_NOBODY: Final[Raw] = {"matchExpressions": [{"key": "a", "operator": each} for each in ("Exists", "DoesNotExist")]}
_BOTH: Final[Raw] = {"ingress": True, "egress": True}


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
    named = _mapping(obj.get("metadata"))
    # What else an object says of itself may be long, and is read with every part.
    metadata = {key: named[key] for key in ("name", "namespace", "uid") if isinstance(named.get(key), str)}
    bare = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": metadata}
    return next((made for made in _candidates(kind, bare, obj, sensible) if sensible(made)), None)


def _candidates(kind: PolicyKind, bare: Raw, obj: Raw, sensible: Check) -> Iterator[dict[str, Any]]:
    """The most that is left first. Parts that can be read may be too many together."""
    for by_parts in (True, False):
        if kind.short == "knp":
            yield {**bare, "spec": _kubernetes(bare, obj.get("spec"), sensible, by_parts=by_parts)}
        elif kind.short in ("cnp", "ccnp"):
            made: dict[str, Any] = dict(bare)
            spec = partial(_cilium, kind, bare, sensible=sensible, by_parts=by_parts)
            if obj.get("spec") is not None:
                made["spec"] = spec(obj["spec"])
            if obj.get("specs") is not None:
                made["specs"] = [spec(held) for held in _parts(obj["specs"])]
            yield made
        else:
            yield {**bare, "spec": _admin(kind, bare, _mapping(obj.get("spec")), sensible, by_parts=by_parts)}
    if kind.short == "knp":
        yield {**bare, "spec": {"policyTypes": ["Ingress", "Egress"]}}
    elif kind.short == "cnp":
        yield {**bare, "spec": {"endpointSelector": {}, "enableDefaultDeny": _BOTH}}


def _mapping(held: Any) -> Raw:
    return held if isinstance(held, Mapping) else {}


def _parts(held: Any) -> list[Any]:
    """Of a list; what should be one and is not is a part that can't be read."""
    if held is None:
        return []
    return list(held) if isinstance(held, list | tuple) else [None]


def _each(held: Any, good: Check, instead: Callable[[list[Any]], Raw], *, by_parts: bool) -> list[Raw]:
    """Every part has its place: where a rule is written is told by its number."""
    parts = _parts(held)
    if len(parts) > MOST_PARTS or (parts and not by_parts):
        return [instead(parts)]
    return [part if isinstance(part, Mapping) and good(part) else instead([part]) for part in parts]


def _instead(closed: Raw, _: list[Any]) -> Raw:
    return closed


def _never(_: Raw) -> bool:
    return False


def _alone(bare: Raw, spec: Raw, section: str, sensible: Check) -> Check:
    """Whether a part makes sense as the only one of its section."""
    return lambda part: sensible({**bare, "spec": {**spec, section: [part]}})


def _kubernetes(bare: Raw, held: Any, sensible: Check, *, by_parts: bool) -> dict[str, Any]:
    spec = _mapping(held)
    made: dict[str, Any] = {"podSelector": spec.get("podSelector", {})}
    if known := sensible({**bare, "spec": made}):
        types = [] if spec.get("policyTypes") is None else spec["policyTypes"]
    else:
        made, types = {}, spec.get("policyTypes", [])
    if spec is not held or spec.keys() - _OF_KUBERNETES or not sensible({**bare, "spec": {"policyTypes": types}}):
        types = ["Ingress", "Egress"]  # a section may be mistyped
    made["policyTypes"] = types or ["Ingress", *(["Egress"] if _parts(spec.get("egress")) else [])]
    for section, side in _SIDES.items():
        good = _alone(bare, {}, section, sensible) if known else _never
        nobody = partial(_instead, {side: [{"podSelector": _NOBODY}]})
        made[section] = _each(spec.get(section), good, nobody, by_parts=by_parts)
    return made


def _cilium(kind: PolicyKind, bare: Raw, held: Any, *, sensible: Check, by_parts: bool) -> dict[str, Any]:
    spec = _mapping(held)
    subject: dict[str, Any] = {key: spec[key] for key in ("endpointSelector", "nodeSelector") if spec.get(key) is not None}
    known = sensible({**bare, "spec": subject})
    if not known:  # all that the policy could have meant, but for a whole cluster
        subject = {"endpointSelector": {} if kind.namespaced else _NOBODY}
    made: dict[str, Any] = dict(subject)
    default = spec.get("enableDefaultDeny")
    if default is not None:
        made["enableDefaultDeny"] = default
    anybody: dict[str, Any] = {key: {} for key in subject}
    if spec is not held or spec.keys() - _OF_CILIUM or not sensible({**bare, "spec": {**anybody, "enableDefaultDeny": default}}):
        made["enableDefaultDeny"] = _BOTH  # a section may be mistyped
    for section, direction in _SECTIONS.items():
        if spec.get(section) is None:
            continue
        side, deny, alone = _SIDES[direction], section.endswith("Deny"), _alone(bare, anybody, section, sensible)
        closed = partial(_instead, {f"{side}Entities": ["all"]}) if deny else partial(_restricting, side, alone)
        made[section] = _each(spec[section], alone if known or deny else _never, closed, by_parts=by_parts)
    if any(_may_deny(str(key), spec[key]) for key in spec.keys() - _OF_CILIUM):
        for section, direction in _SECTIONS.items():
            if section.endswith("Deny"):
                made[section] = [*made.get(section, ()), {f"{_SIDES[direction]}Entities": ["all"]}]
    return made


def _may_deny(key: str, held: Any) -> bool:
    """Whether it may be a section, mistyped, that takes from what others allow."""
    return "deny" in key.lower() or any(_restricting("from", _never, [part]) for part in _parts(held))


def _restricting(side: str, good: Check, parts: list[Any]) -> Raw:
    """What allowing elements do to what others allow, or may do: their fields may be mistyped."""
    made: dict[str, Any] = {}
    field = f"{side}Requires"
    required = {key: part[key] for part in map(_mapping, parts) for key in part if "require" in str(key).lower()}
    if required:
        readable = len(parts) == 1 and required.keys() == {field} and good(required)
        made |= required if readable else {field: [_NOBODY]}
    if any(_restricts(_mapping(part)) for part in parts):
        made |= {f"{side}Entities": ["all"], "authentication": {"mode": "required"}}
    return made


def _restricts(part: Raw) -> bool:
    """Whether it asks for more than addresses and ports."""
    asked = any("auth" in str(key).lower() and part[key] != {"mode": "disabled"} for key in part)
    mistyped = any("port" in str(key).lower() and key != "toPorts" for key in part)
    return (
        asked
        or mistyped
        or any(not isinstance(entry, Mapping) or entry.keys() - {"ports"} for entry in _parts(part.get("toPorts")))
    )


def _admin(kind: PolicyKind, bare: Raw, spec: Raw, sensible: Check, *, by_parts: bool) -> dict[str, Any]:
    subject = {"subject": spec.get("subject")}
    made = {key: spec[key] for key in ("priority", "tier") if key in spec}
    if not (known := sensible({**bare, "spec": {"subject": {"namespaces": {}}, **made}})):
        # Where its rules stand among others is not known: those that deny go before all, and no other holds.
        first: dict[str, dict[str, Any]] = {"anp": {"priority": 0}, "kcnp": {"priority": 0, "tier": "Admin"}}
        made = first.get(kind.short, {})
    allowing = "Accept" if kind.short == "kcnp" else "Allow"
    for section, side in _SIDES.items():
        good = _alone(bare, {"subject": {"namespaces": {}}, **made}, section, sensible) if known else _never
        rules = _each(spec.get(section), good, partial(_unknown, allowing, side), by_parts=by_parts)
        if rules:
            made[section] = rules
    return {**subject, **made}


def _unknown(allowing: str, side: str, parts: list[Any]) -> Raw:
    """A rule with a peer of no known sort, which fails closed as that API wants it."""
    allows = all(_mapping(part).get("action") == allowing for part in parts)
    return {"action": allowing if allows else "Deny", side: [{}]}
