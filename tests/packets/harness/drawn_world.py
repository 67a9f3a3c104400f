"""A drawn world of rules in this node's tables. What it means says oracle.py, which knows no tables."""

from dataclasses import replace
from random import Random
from typing import Any, Final

from tests.packets.harness.actors import CLIENT, WEB
from tests.packets.harness.drawn import (
    HOST_NAME,
    IN_RANGES,
    NOT_COMPILED,
    Address,
    Applied,
    Drawn,
    Kind,
    Said,
    directions,
    is_inside,
)
from tests.packets.harness.node import Node
from tests.properties.oracle import Probe, World, governing_policies, truth
from tests.properties.worlds import ADDRESSES, KEYS, PORTS, VALUES

from pilus_agent.bind.policy_rows import PolicyRows
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.tables import PolicyName
from pilus_api.identities import FIRST_ALLOCATED, KUBE_APISERVER, REMOTE_NODE, REMOTE_NODE_SCOPE, RESERVED, SCOPE_SHIFT, Identity
from pilus_api.labels import SOURCE_NODE, Label, canonical
from pilus_api.rules import Direction

BY_LABELS: Final = Identity(REMOTE_NODE_SCOPE << SCOPE_SHIFT | 1)


class DrawnWorld(Drawn):
    ports = PORTS

    def __init__(self, node: Node, world: World, chance: Random, *, tunnel: bool | None = None) -> None:
        super().__init__(node, chance, tunnel=tunnel, nodes_count=chance.random() < 0.5)
        labels = (
            *RESERVED[REMOTE_NODE],
            *(Label(SOURCE_NODE, key, chance.choice(VALUES)) for key in KEYS if chance.random() < 0.5),
        )
        self._world = replace(world, identities={**world.identities, BY_LABELS: canonical(labels)})
        self.known, self.audits = self._world.identities.keys(), any(policy.audit for policy in world.policies)
        self._compiled = compile_policies(world.policies, self._world.identities, world.endpoints, world.named_ports)
        self._rows = PolicyRows()
        self._allocated = [each for each in world.identities if each >= FIRST_ALLOCATED]
        self._elsewhere = list(ADDRESSES)
        self._names = {HOST_NAME: HOST_NAME}  # of endpoints in the world, by those of the pods here
        for pod in (CLIENT, WEB):
            addresses = {family: self._taken(family) for family in (4, 6)}
            identity = NOT_COMPILED if chance.random() < 0.1 else chance.choice(self._allocated)
            self.pods += (replace(pod, identity=int(identity), addresses=addresses),)
            self._names[pod.name] = chance.choice([name for name in world.endpoints if name != HOST_NAME])

    def _taken(self, family: int) -> str:
        address = self._chance.choice([each for each in self._elsewhere if each.version == family])
        self._elsewhere.remove(address)
        return str(address)

    def said(self, name: str, probe: Probe, *, audited: bool) -> Said:
        found = truth(self._world, self._world.endpoints[self._names[name]], probe, audited=audited)
        return Said(found.allowed, found.rules)

    def closed(self, name: str, direction: Direction, *, audited: bool = False) -> bool:
        governing = governing_policies(self._world, self._world.endpoints[self._names[name]])
        return any(
            policy.default_deny[direction]
            or any(rule.deny and rule.direction == direction and () not in (rule.peers, rule.ports) for rule in policy.rules)
            for policy in governing
            if audited or not policy.audit
        )

    def applied(self, name: str) -> Applied:
        found = self._compiled.endpoints[self._names[name]]
        enforced = directions(found.ingress_enforced, found.egress_enforced)
        return Applied(self._number_of(found.policy), self._number_of(found.audit), enforced)

    def _number_of(self, policy: PolicyName | None) -> int:
        return self._rows.number_of(policy) if policy else 0

    def reason(self, policy: int, rule: int) -> Any:
        return next(each for name, each in self._compiled.policies.items() if self._number_of(name) == policy).origin(rule)

    def _write_policies(self) -> None:
        for change in self._rows.settle(self._compiled.policies):
            assert change.value is not None
            self.node.datapath.map(change.table).update(change.key, change.value)

    def _pick(self, kind: Kind) -> tuple[Address, Identity]:
        address = self._chance.choice([each for each in self._elsewhere if is_inside(each) == (kind in IN_RANGES)])
        return address, self._chance.choice(self._allocated if kind == "pod" else (REMOTE_NODE, KUBE_APISERVER, BY_LABELS))

    def _outside(self) -> Address:
        return self._chance.choice([each for each in self._elsewhere if not is_inside(each)])
