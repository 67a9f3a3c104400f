"""Policies: what an object's status says about it.

In: policies, what each node has realised of them, and which nodes there are. Out: the status that a policy should have, if it has
another. Pure: no clock, no network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilus_api.connection import Object
from pilus_operator.facts import Realised

VALID = "Valid"
VALID_TEXT = "Policy validation succeeded"


@dataclass(frozen=True, slots=True)
class Policy:
    """A CNP or CCNP. `error` says why it means nothing, "" if it is valid; the rest is its status as it stands there."""

    path: str
    generation: int
    error: str
    conditions: tuple[tuple[tuple[str, str], ...], ...]
    enforced: str


@dataclass(slots=True)
class Policies:
    """By uid. `dirty` are those whose status may have to be written."""

    policies: dict[str, Policy] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    _nodes: set[str] = field(default_factory=set)
    _said: dict[str, Mapping[str, Realised]] = field(default_factory=dict)

    def set_policy(self, uid: str, policy: Policy) -> None:
        self.policies[uid] = policy
        self.dirty.add(uid)

    def remove_policy(self, uid: str) -> None:
        self.policies.pop(uid, None)
        self.dirty.discard(uid)

    def set_node(self, name: str, present: bool) -> None:
        if present != (name in self._nodes):
            (self._nodes.add if present else self._nodes.discard)(name)
            self.dirty.update(self.policies)

    def set_said(self, node: str, said: Mapping[str, Realised]) -> None:
        """What a node says; empty when it says nothing any more."""
        former = self._said.get(node, {})
        changed = {uid for uid in former.keys() | said.keys() if former.get(uid) != said.get(uid)}
        if said:
            self._said[node] = said
        else:
            self._said.pop(node, None)
        self.dirty |= changed & self.policies.keys()

    def enforced(self, uid: str) -> str:
        """`x/y`: of y nodes, x have this very generation in the kernel."""
        generation = self.policies[uid].generation
        said = (self._said.get(node, {}).get(uid) for node in self._nodes)
        done = sum(found is not None and found.realised and found.generation == generation for found in said)
        return f"{done}/{len(self._nodes)}"

    def patch(self, uid: str, now: str) -> Object | None:
        """The status to merge; None: it stands there already. `now` is RFC 3339, for a condition that changes."""
        policy = self.policies[uid]
        status, message = ("False", policy.error) if policy.error else ("True", VALID_TEXT)
        held = [dict(pairs) for pairs in policy.conditions]
        valid = next((condition for condition in held if condition.get("type") == VALID), None)
        found: Object = {}
        if valid is None or (valid.get("status"), valid.get("message")) != (status, message):
            since = (
                valid["lastTransitionTime"] if valid and valid.get("status") == status and "lastTransitionTime" in valid else now
            )
            wanted = {"type": VALID, "status": status, "message": message, "lastTransitionTime": since}
            # A merge patch replaces a list, so other conditions go with it.
            found["conditions"] = [condition for condition in held if condition is not valid] + [wanted]
        enforced = self.enforced(uid) if not policy.error else f"0/{len(self._nodes)}"
        if policy.enforced != enforced:
            found["enforced"] = enforced
        return found or None

    def written(self, uid: str, conditions: tuple[tuple[tuple[str, str], ...], ...], enforced: str) -> None:
        if uid in self.policies:
            self.policies[uid] = replace(self.policies[uid], conditions=conditions, enforced=enforced)


def conditions_of(raw: Object) -> tuple[tuple[tuple[str, str], ...], ...]:
    held = (raw.get("status") or {}).get("conditions") or ()
    return tuple(tuple(sorted((str(key), str(value)) for key, value in condition.items())) for condition in held)


def policy_of(raw: Object, path: str, error: str) -> Policy:
    enforced = (raw.get("status") or {}).get("enforced") or ""
    return Policy(path, int(raw["metadata"].get("generation") or 0), error, conditions_of(raw), str(enforced))
