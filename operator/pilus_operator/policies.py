"""Policies: what an object's status says about it.

In: policies, what each node has realised of them, and which nodes there are. Out: the status that a policy should have, if it has
another; of a kind without a status the conditions that it would have, which are kept here alone. Pure: no clock, no network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilus_api.connection import Object
from pilus_api.policy_kinds import POLICY_KINDS, optional
from pilus_api.resources.pilusnodestatus import MORE
from pilus_operator.facts import Realised

VALID = "Valid"
VALID_TEXT = "Policy validation succeeded"
# Ours, beside upstream's: whether all that the policy says is in force.
IN_FORCE = "InForce"
IN_FORCE_TEXT = "All of it is in force"
# Ours too: something is in force that may not be what its author meant. It says nothing about whether it is.
NOTES = "Notes"
NO_NOTES_TEXT = "Nothing to note"
_LONGEST_TEXT = 4096
# Where those are served whose definitions are not ours.
_PLAIN = tuple(f"/apis/{kind.version}/" for kind in POLICY_KINDS if optional(kind))


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `error` says why it means nothing, "" if it is valid; the rest is its status as it stands there.

    `path`: of its status, "" for a kind that has none. `plain`: its definition is another project's, and has conditions alone, each
    with a reason.
    """

    path: str
    generation: int
    error: str
    conditions: tuple[tuple[tuple[str, str], ...], ...]
    enforced: str
    mode: str = ""
    selected: int | None = None
    plain: bool = False
    about: tuple[tuple[str, str], ...] = ()  # what an Event says that it is about


@dataclass(slots=True)
class Policies:
    """By uid. `dirty` are those whose status may have to be written."""

    policies: dict[str, Policy] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    _nodes: set[str] = field(default_factory=set)
    _said: dict[str, Mapping[str, Realised]] = field(default_factory=dict)

    def set_policy(self, uid: str, policy: Policy) -> None:
        if not policy.path and uid in self.policies:  # nobody else keeps them
            policy = replace(policy, conditions=self.policies[uid].conditions)
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

    def _current(self, uid: str) -> dict[str, Realised]:
        """What nodes say of this generation."""
        generation = self.policies[uid].generation
        told = {node: self._said.get(node, {}).get(uid) for node in sorted(self._nodes)}
        return {node: said for node, said in told.items() if said is not None and said.generation == generation}

    def _condition(self, uid: str, kind: str, wanted: tuple[str, str], now: str) -> dict[str, str] | None:
        """The condition as it should be, None if it stands there so."""
        held = next((dict(pairs) for pairs in self.policies[uid].conditions if ("type", kind) in pairs), None)
        status, message = wanted
        if held is not None and (held.get("status"), held.get("message")) == wanted:
            return None
        since = held["lastTransitionTime"] if held and held.get("status") == status and "lastTransitionTime" in held else now
        made = {"type": kind, "status": status, "message": message, "lastTransitionTime": since}
        return made | {"reason": kind if status == "True" else f"Not{kind}"} if self.policies[uid].plain else made

    def patch(self, uid: str, now: str) -> Object | None:
        """The status to merge; None: it stands there already. `now` is RFC 3339, for a condition that changes."""
        policy = self.policies[uid]
        wanted = {VALID: ("False", policy.error) if policy.error else ("True", VALID_TEXT)}
        current = self._current(uid)
        missing = _missing(current)
        enforced = self.enforced(uid) if not policy.error else f"0/{len(self._nodes)}"
        if policy.plain:
            there = enforced == f"{len(self._nodes)}/{len(self._nodes)}"
            wanted[IN_FORCE] = ("False" if missing or not there else "True", missing or f"On {enforced} nodes")
        elif missing or (current and any(("type", IN_FORCE) in pairs for pairs in policy.conditions)):
            wanted[IN_FORCE] = ("False", missing) if missing else ("True", IN_FORCE_TEXT)
        notes = _notes(current)
        if notes or (current and any(("type", NOTES) in pairs for pairs in policy.conditions)):
            wanted[NOTES] = ("True", notes) if notes else ("False", NO_NOTES_TEXT)
        changed = {kind: made for kind, text in wanted.items() if (made := self._condition(uid, kind, text, now)) is not None}
        found: Object = {}
        if changed:
            # A merge patch replaces a list, so the other conditions go with it.
            held = [dict(pairs) for pairs in policy.conditions]
            found["conditions"] = [one for one in held if one.get("type") not in changed] + list(changed.values())
        if policy.plain or not policy.path:
            return found or None
        if policy.enforced != enforced:
            found["enforced"] = enforced
        if current:  # as it was while no node has spoken
            mode = "audit" if any(said.audited for said in current.values()) else "enforce"
            selected = sum(said.selected for said in current.values())
            found |= {"mode": mode} if policy.mode != mode else {}
            found |= {"selected": selected} if policy.selected != selected else {}
        return found or None

    def news(self, uid: str, status: Object) -> list[tuple[str, str]]:
        """(reason, message) of what is not as it was declared, as far as this status says something new of it."""
        policy = self.policies[uid]
        known = {(dict(pairs).get("type"), dict(pairs).get("message")) for pairs in policy.conditions}
        # Of a kind that always has the second, it is false until every node has spoken: that is no news.
        wrong = {(VALID, policy.error), (IN_FORCE, _missing(self._current(uid)))}
        told = [(str(one.get("type")), str(one.get("message"))) for one in status.get("conditions", ())]
        doubtful = {(NOTES, _notes(self._current(uid)))}
        found = [(f"Not{kind}", message) for kind, message in told if message and (kind, message) in wrong - known]
        return found + [pair for pair in told if pair[1] and pair in doubtful - known]

    def troubled(self, uid: str) -> list[tuple[tuple[str, str, str], str]]:
        """Pods (namespace, name, uid) that this generation governs otherwise than it is written, each with what is missing."""
        policy = self.policies[uid]
        about = dict(policy.about)
        name = f"{about['namespace']}/{about['name']}" if about.get("namespace") else about.get("name", "")
        found = []
        for said in self._current(uid).values():
            missing = _missing({"": said})
            found += [(pod, f"{about.get('kind', '')} {name}, which governs this pod: {missing}") for pod in said.pods if missing]
        return found

    def written(self, uid: str, status: Object) -> None:
        """`status`: as it stands there now."""
        if uid in self.policies:
            held = self.policies[uid]
            made = policy_of({"metadata": {"generation": held.generation}, "status": status}, held.path, held.error)
            self.policies[uid] = replace(made, about=held.about)


def _missing(current: Mapping[str, Realised]) -> str:
    """What keeps a generation from being in force as it is written, "" if nothing does that a node has told of."""
    errors = [f"{node}: {said.error}" if node else said.error for node, said in current.items() if said.error]
    told = {text for said in current.values() for text in said.unenforced}
    # A path of a field, or a sentence; a count of more is of those that stand before it.
    fields = sorted(text for text in told if text.startswith("spec"))
    sentences = sorted(text for text in told.difference(fields) if not MORE.match(text))
    (fields or sentences).extend(sorted(text for text in told if MORE.match(text)))
    parts = errors + sentences
    if fields:
        parts.append(f"not in force as it is written, and what it would allow by that is denied: {', '.join(fields)}")
    return "; ".join(parts)[:_LONGEST_TEXT]


def _notes(current: Mapping[str, Realised]) -> str:
    """What nodes note of a generation; they note the same, but not at the same time."""
    found = dict.fromkeys(note for said in current.values() for note in said.notes)
    return "; ".join(sorted(found, key=lambda note: MORE.match(note) is not None))[:_LONGEST_TEXT]


def conditions_of(raw: Object) -> tuple[tuple[tuple[str, str], ...], ...]:
    held = (raw.get("status") or {}).get("conditions") or ()
    return tuple(tuple(sorted((str(key), str(value)) for key, value in condition.items())) for condition in held)


def policy_of(raw: Object, path: str, error: str) -> Policy:
    status = raw.get("status") or {}
    enforced, mode, selected = str(status.get("enforced") or ""), str(status.get("mode") or ""), status.get("selected")
    generation = int(raw["metadata"].get("generation") or 0)
    known = selected if isinstance(selected, int) else None
    metadata = raw["metadata"]
    about = {
        "apiVersion": str(raw.get("apiVersion", "")), "kind": str(raw.get("kind", "")), "name": str(metadata.get("name", "")),
        "namespace": str(metadata.get("namespace", "")), "uid": str(metadata.get("uid", "")),
    }  # fmt: skip
    plain = path.startswith(_PLAIN)
    return Policy(path, generation, error, conditions_of(raw), enforced, mode, known, plain, tuple(about.items()))
