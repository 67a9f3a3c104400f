"""Policy, from objects to rows: compile, number. What wiring asks about policy, it asks here.

In: what policy objects say (policy_objects.py), identities, this node's endpoints. Out: who is governed by what, changes of the
tables, and what became of each object.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from pilus_agent.bind.policy_rows import Change, PolicyRows
from pilus_agent.desired.endpoints import Governed
from pilus_agent.desired.policy.compiler import PolicyCompiler
from pilus_agent.desired.policy.notes import PodRanges, notes
from pilus_agent.desired.policy.tables import Compiled, CompiledPolicy, Endpoint, NamedPorts, PolicyName
from pilus_agent.facts import RemoteEndpoint
from pilus_agent.host_policy import FLOOR, HOST, HostPolicy
from pilus_agent.policy_objects import PolicyObjects
from pilus_agent.policy_words import Written, classes_in_words, in_place, objects_in, unresolved
from pilus_agent.tables import Tables
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import SOURCE_RESERVED, Labels
from pilus_api.policy_kinds import BY_SHORT
from pilus_api.policy_modes import Mode
from pilus_api.resources.pilusnodestatus import MOST_PODS
from pilus_api.rule_numbers import default_deny, rule_number
from pilus_api.rules import Direction, Network, Origin, Policy
from pilus_api.selectors import EVERYTHING, exists, selector
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)
Ports = frozenset[tuple[str, int, int]]
Item = dict[str, Any]

NO_PODS: Mapping[str, Item] = {}
_BUILTIN = "pilus"
_NEVER = "enable-policy is never: nothing is restricted"


def builtin(settings: Settings) -> tuple[Policy, ...]:
    """What holds without anybody's writing it: a pod without identity is closed, and so is everyone where policy is `always`."""
    origin = Origin("Builtin", "", _BUILTIN, _BUILTIN)
    closed = [Policy(origin, selector(exists(SOURCE_RESERVED, "init")), (True, True), ())]
    if settings.enable_policy == "always":
        everyone = Policy(replace(origin, path="enable-policy"), EVERYTHING, (True, True), (), audit=settings.policy_audit_mode)
        closed.append(everyone)
        if settings.enable_host_firewall:
            closed.append(replace(everyone, subject=selector(exists(SOURCE_RESERVED, "host")), host=True))
    return tuple(closed)


class PolicyStage:
    """`api_server`: the URL that this agent asks."""

    def __init__(self, settings: Settings, api_server: str = "") -> None:
        self._settings = settings
        self._compiler = PolicyCompiler()
        self._rows = PolicyRows()
        self.host = HostPolicy(settings, api_server)
        self.objects = PolicyObjects(settings, self.host)
        self._good: dict[str, PolicyName] = {}
        self._kept: dict[PolicyName, CompiledPolicy] = {}
        self._compiled = Compiled({}, {}, {})
        self._unresolved: Mapping[Written, tuple[str, ...]] = {}
        self._unresolved_of: frozenset[PolicyName] = frozenset()
        self._large: dict[PolicyName, frozenset[Origin]] = {}  # whose rules are in a policy that is too large
        self._governed: dict[str, Governed] = {}
        self._pod_ranges: frozenset[Network] = frozenset()
        self._ranges = PodRanges()
        self._notes: dict[str, tuple[str, ...]] = {}  # of those that have been asked for since they changed
        self._labels: dict[Identity, Labels] = {}
        self._ports: dict[Identity, NamedPorts] = {}
        self._here: set[Identity] = set()  # who has named ports on this node
        self._elsewhere: dict[str, dict[Identity, set[tuple[str, int, int]]]] = {}  # by slice, what its pods call their ports
        self._slices: dict[Identity, set[str]] = {}  # those that tell of an identity's ports
        self._renamed: set[Identity] = set()
        self._endpoints: dict[str, Labels] = {}
        self._endpoint_ports: dict[str, Ports] = {}
        self._texts: dict[PolicyName, tuple[int, Mapping[str, str]]] = {}  # of rules, as of a policy's number
        self._deciding: frozenset[tuple[str, int]] = frozenset()
        self._realised: frozenset[tuple[str, int]] = frozenset()
        for number, labels in RESERVED.items():
            self._compiler.put_identity(number, labels)
        if settings.enable_policy != "never":
            self._compiler.put_policies(_BUILTIN, builtin(settings))

    # -- facts -------------------------------------------------------------------------------------------------------------

    def place_host(self, labels: Labels | None, api_ports: frozenset[int]) -> None:
        """This node's Node object's labels, None as long as nobody has told of it; the ports that API servers listen on."""
        if self.host.place(labels, api_ports):
            self.objects.host_moved()

    def pod_ranges(self, ranges: Iterable[Network]) -> None:
        """Those of every node. They decide nothing here: a policy that seems to mean them by address is noted."""
        now = frozenset(ranges)
        if now != self._pod_ranges:
            self._pod_ranges, self._ranges, self._notes = now, PodRanges(now), {}

    def identity(self, number: Identity, labels: Labels | None) -> None:
        if labels is None:
            self._labels.pop(number, None)
            self._compiler.drop_identity(number)
        else:
            self._labels[number] = labels
            self._compiler.put_identity(number, labels, self._ports.get(number, {}))

    def elsewhere(self, name: str, endpoints: Iterable[RemoteEndpoint]) -> None:
        """What a slice of endpoints has now."""
        told: dict[Identity, set[tuple[str, int, int]]] = {}
        for endpoint in endpoints:
            if endpoint.ports:
                told.setdefault(endpoint.identity, set()).update(endpoint.ports)
        before = self._elsewhere.pop(name, {})
        for number in before.keys() - told.keys():
            self._slices[number].discard(name)
            if not self._slices[number]:
                del self._slices[number]
        for number in told:
            self._slices.setdefault(number, set()).add(name)
        if told:
            self._elsewhere[name] = told
        self._renamed |= before.keys() | told.keys()

    def restore(self, held: Mapping[str, Mapping[bytes, bytes]], tables: Tables) -> None:
        """What the kernel holds from an earlier agent."""

        def decoded(name: str) -> Iterator[tuple[Any, Any]]:
            layout = tables.layouts[name]
            return ((layout.key.decode(key), layout.value.decode(value)) for key, value in held[name].items())

        self._rows.restore(decoded("policies"), decoded("verdicts"), [*decoded("peers"), *decoded("cidrs")])

    # -- deciding ----------------------------------------------------------------------------------------------------------

    def decide(
        self, endpoints: Mapping[str, Labels], ports: Mapping[str, Ports], numbers: Mapping[str, Identity | None]
    ) -> dict[str, Governed]:
        """Who is governed by what, this node itself (HOST) if anything restricts it. `endpoints` are this node's pods, with the
        labels of their identities."""
        self._put_policies(self.objects.resolve())
        self._deciding = self.objects.marks
        self._put_endpoints(endpoints, ports, numbers)
        self._compiled = self._compiler.compiled()
        self._find_unresolved()
        self._large = {name: self._large.get(name) or objects_in(large) for name, large in self._compiled.too_large.items()}
        self._governed = {key: self._of(key) for key in endpoints}
        if self.host.labels is not None and (host := self._of(HOST)).restricts:
            # Lifelines alone, which is what enforced policies are where all are in audit mode, are not asked.
            self._governed[HOST] = host if host.ingress_enforced or host.egress_enforced else replace(host, policy=b"")
        used = {name for held in self._governed.values() for name in (held.policy, held.audit)}
        self._kept = {name: policy for name, policy in (self._kept | dict(self._compiled.policies)).items() if name in used}
        floor = self._compiled.endpoints[FLOOR].policy if FLOOR in self._compiled.endpoints else None
        self._good = {key: PolicyName(held.policy) for key, held in self._governed.items() if held.policy not in (b"", floor)}
        return self._governed

    def _find_unresolved(self) -> None:
        held = {name: policy for name, policy in self._compiled.policies.items() if policy.unresolved}
        if self._unresolved_of != held.keys():
            self._unresolved_of, self._unresolved = frozenset(held), unresolved(held.values())

    def _put_policies(self, moved: Iterable[str]) -> None:
        for name in moved:
            self._notes.pop(name, None)
            if self._settings.enable_policy != "never":
                self._compiler.put_policies(name, self.objects.policies.get(name, ()))

    def _put_endpoints(
        self, endpoints: Mapping[str, Labels], ports: Mapping[str, Ports], numbers: Mapping[str, Identity | None]
    ) -> None:
        for key in self._endpoints.keys() - endpoints.keys():
            self._compiler.drop_endpoint(key)
        called: dict[Identity, set[tuple[str, int, int]]] = {}
        for key, labels in endpoints.items():
            if self._endpoints.get(key) != labels or self._endpoint_ports.get(key) != ports[key]:
                self._compiler.put_endpoint(key, Endpoint(labels, named_ports(ports[key])))
            number = numbers[key]
            if number is not None and ports[key]:
                called.setdefault(number, set()).update(ports[key])
        for key in (HOST, FLOOR):
            if (host := self.host.endpoints().get(key)) is None:
                self._compiler.drop_endpoint(key)
            else:
                self._compiler.put_endpoint(key, host)
        self._endpoints, self._endpoint_ports = dict(endpoints), dict(ports)
        for number in self._here | called.keys() | self._renamed:
            far = (self._elsewhere[name][number] for name in self._slices.get(number, ()))
            now = named_ports(called.get(number, set()).union(*far))
            if now == self._ports.get(number, {}):
                continue
            if now:
                self._ports[number] = now
            else:
                del self._ports[number]
            if number in self._labels:
                self._compiler.put_identity(number, self._labels[number], now)
        self._here = set(called)
        self._renamed = set()

    def _of(self, key: str) -> Governed:
        held = self._compiled.endpoints[key]
        audit = held.audit if held.audit in self._compiled.policies else None
        if held.policy is None:
            return Governed(b"", False, False, audit or b"")
        if held.policy in self._compiled.policies:
            return Governed(held.policy, held.ingress_enforced, held.egress_enforced, audit or b"")
        # Too large: what was enforced last stays; an endpoint that never had any is closed, for no row is not a grant.
        before = self._good.get(key)
        if before is not None and before in self._kept:
            policy = self._kept[before]
            return Governed(before, policy.directions[0].enforced, policy.directions[1].enforced)
        if key == HOST:
            return self._of(FLOOR)
        return Governed(held.policy, held.ingress_enforced, held.egress_enforced)

    # -- rows --------------------------------------------------------------------------------------------------------------

    def settle(self, tables: Tables) -> None:
        """Want what follows from the last decision."""
        for change in self._rows.settle(self._kept):
            _want(tables, change)
        for change in self._rows.unused_tables():
            _want(tables, change)

    def swept(self) -> None:
        self._rows.swept()

    def number(self, policy: bytes) -> int:
        return self._rows.number_of(policy)

    def rules(self) -> dict[str, str]:
        """What pilus_api.rule_numbers calls a rule -> the rule's text, for whoever reads events."""
        texts: dict[PolicyName, tuple[int, Mapping[str, str]]] = {}
        for name, policy in self._kept.items():
            number, known = self._rows.number_of(name), self._texts.get(name)
            texts[name] = known if known is not None and known[0] == number else (number, self.rules_of(policy))
        self._texts = texts
        return {number: text for _, held in texts.values() for number, text in held.items()}

    def rules_of(self, policy: CompiledPolicy) -> dict[str, str]:
        number = self._rows.number_of(policy.name)
        found = {str(rule_number(number, index)): str(origin) for index, origin in enumerate(policy.origins, 1)}
        for direction in Direction:
            if closers := policy.closers[direction]:
                found[str(default_deny(number, direction))] = f"default deny of {_listed(closers)}"
        return found

    def numbered(self, number: int) -> CompiledPolicy | None:
        """The policy that the kernel knows by this number; None: by none that we keep."""
        return next((policy for policy in self._kept.values() if self._rows.number_of(policy.name) == number), None)

    # -- what became of it -------------------------------------------------------------------------------------------------

    def acknowledgements(self, unwritten: str, pods: Mapping[str, Item] = NO_PODS) -> list[Item]:
        """For PilusNodeStatus. `unwritten` says why the last pass could not write what was decided, "" if it could. `pods`: an
        endpoint's pod, in the words of a GovernedPod."""
        told = []
        for name, held in sorted(self.objects.held.items()):
            mark = (held.uid, held.generation)
            done = mark in self._realised
            error = self._error(name) or ("" if done else unwritten)
            missing = [*self.objects.missing(name), *self._unresolved_in(name)]
            troubled = bool(error or missing) and not self._off  # where none is in force, that is no news of a pod
            told.append(
                {
                    "uid": held.uid,
                    "generation": held.generation,
                    "realised": done and not error and not self._off,
                    "error": error,
                    "unenforced": [_NEVER, *missing] if self._off else missing,
                    "notes": list(self._noted(name)),
                    "audited": self.objects.audited(name),
                    "selected": self._selected(name),
                    "pods": [pods[key] for key in self._governed_by(name) if key in pods][:MOST_PODS] if troubled else [],
                }
            )
        return told

    def _noted(self, name: str) -> tuple[str, ...]:
        if name not in self._notes:
            if len(self._notes) > len(self.objects.held):  # some have gone that governed nobody
                self._notes = {}
            self._notes[name] = notes(self.objects.policies.get(name, ()), self._ranges)
        return (*self._notes[name], *self.objects.doubts(name))

    @property
    def _off(self) -> bool:
        return self._settings.enable_policy == "never"

    def _unresolved_in(self, name: str) -> tuple[str, ...]:
        """What of it is not in force because an address has no named ports."""
        policies = self.objects.policies.get(name, ())
        return self._unresolved.get(policies[0].origin.written_in, ()) if policies else ()

    def _selected(self, name: str) -> int:
        """How many pods of this node it governs, and the node itself."""
        policies = self.objects.policies.get(name, ())
        return self._compiler.governed(policies).bit_count() + self.host.governed_by(policies)

    def _governed_by(self, name: str) -> list[str]:
        """The pods, by the keys of their endpoints."""
        return sorted(self._compiler.endpoints(self._compiler.governed(self.objects.policies.get(name, ()))))

    def realised(self) -> None:
        """What was last decided stands in the kernel."""
        self._realised = self._deciding

    @property
    def frozen(self) -> bool:
        """Whether an endpoint's policy stands as it last fitted, because what is wanted does not."""
        return any(map(self._outdated, self._governed.values()))

    def _outdated(self, held: Governed) -> bool:
        return held.policy in self._kept and held.policy not in self._compiled.policies

    def _error(self, name: str) -> str:
        if error := self.objects.error(name):
            return error
        names = {large for large, origins in self._large.items() if any(self.objects.wrote(name, origin) for origin in origins)}
        if names and not self.objects.audited(name):  # one in audit mode beside it may be what is too much
            names &= {held.policy for held in self._compiled.endpoints.values() if held.policy is not None}
        if not names:
            return ""
        worst = max((self._compiled.too_large[large] for large in names), key=lambda large: large.rows)
        instead = ["what it would deny is not told"] if self.objects.audited(name) else self._instead(names)
        return "; ".join((f"too large: {worst}", *instead))

    def _instead(self, names: set[PolicyName]) -> list[str]:
        """What holds for those whom policies of these names, which are too large, would govern."""
        governed = {key: self._governed[key] for key, held in self._compiled.endpoints.items()
                    if held.policy in names and key in self._governed}  # fmt: skip
        outdated = any(map(self._outdated, governed.values()))
        host = governed.pop(HOST, None)
        told = in_place(governed.values(), names, host_keeps=None if host is None else HOST in self._good)
        return [*told, "identities that are new to this node are refused meanwhile"] if outdated else told

    def checks(self) -> list[Item]:
        bad = {name: error for name in self.objects.held if (error := self._error(name))}
        found = [
            {
                "name": f"policy {name}",
                "state": "degraded",
                "message": error,
                "action": "correct the policy; kubectl describe shows where",
            }
            for name, error in bad.items()
        ]
        if self._off:
            held = len(self.objects.held)
            off: Item = {"name": "policy enforcement", "state": "ok", "message": _NEVER, "action": ""}
            if held:
                action = "set enable-policy in the ConfigMap pilus-config to default or always, and restart the agents"
                off |= {"state": "degraded", "message": f"{_NEVER}, and there are policies ({held})", "action": action}
            found.insert(0, off)
        return found

    def views(self, numbers: Mapping[str, int]) -> list[Item]:
        found = []
        for name, held in sorted(self.objects.held.items()):
            raw = held.raw
            selected = sorted(numbers[key] for key in self._governed_by(name))
            error = self._error(name)
            missing = ", ".join((*self.objects.unenforced.get(name, ()), *self._unresolved_in(name)))
            message = error or (_NEVER if self._off else f"not enforced yet: {missing}" if missing else "")
            found.append(
                {
                    "kind": BY_SHORT[name.partition("/")[0]].name,
                    "namespace": raw["metadata"].get("namespace", ""),
                    "name": raw["metadata"]["name"],
                    "uid": held.uid,
                    "generation": held.generation,
                    "realised": not error and not self._off,
                    "mode": str(Mode.AUDIT if self.objects.audited(name) else Mode.ENFORCE),
                    "message": message,
                    "endpoints": selected,
                    "host": self.host.governed_by(self.objects.policies.get(name, ())),
                }
            )
        return found

    def explain(self, key: str, identities: Mapping[Identity, Labels]) -> Item:
        """An endpoint's classes and verdicts in words."""
        held = self._governed.get(key, Governed(b"", False, False))
        policy = self._kept.get(PolicyName(held.policy))
        answer: Item = {"policy": held.policy.hex()}
        for direction, enforced in ((Direction.INGRESS, held.ingress_enforced), (Direction.EGRESS, held.egress_enforced)):
            classes = classes_in_words(policy, direction, identities) if policy and enforced else []
            answer[direction.name.lower()] = {"enforced": enforced, "classes": classes}
        return answer


def named_ports(ports: Ports | set[tuple[str, int, int]]) -> dict[str, frozenset[tuple[int, int]]]:
    found: dict[str, set[tuple[int, int]]] = {}
    for name, protocol, port in ports:
        found.setdefault(name, set()).add((protocol, port))
    return {name: frozenset(meant) for name, meant in found.items()}


def _listed(origins: Sequence[Origin], most: int = 3) -> str:
    shown = ", ".join(str(replace(origin, path="")) for origin in origins[:most])
    return f"{shown} and {len(origins) - most} more" if len(origins) > most else shown


def _want(tables: Tables, change: Change) -> None:
    tables.want(change.table, change.key, change.value)
