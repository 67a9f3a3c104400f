"""Three namespaces of three pods on two nodes, the nodes, and two who are outside of the cluster; policies applied, tables
compared.

Everybody may reach everybody. After a request a few of the questions whose answer should change are asked until it has, which is
the time that is printed and kept (convergence.py); then the whole table must be what is expected.
"""

import re
import statistics
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from e2e.scenarios.truth.ask import NODE, OUTSIDE, SPACES, Ask, questions, told
from e2e.scenarios.truth.case import Case, Denied, nothing
from e2e.scenarios.truth.convergence import Converged
from e2e.scenarios.truth.table import Table

from pilus_lab import Lab, wait_for
from pilus_lab.api import Api, Object, path_of

NAMES = ("a", "b", "c")
PODS = {f"{space}/{name}": f"n{1 + number % 2}" for number, (space, name) in enumerate((s, n) for s in SPACES for n in NAMES)}
# On no link of a node: reached by the default route, with a node's address.
OUTSIDERS = {f"{OUTSIDE}/a": {4: "198.51.100.9", 6: "2001:db8:51::9"}, f"{OUTSIDE}/b": {4: "203.0.113.7", 6: "2001:db8:71::7"}}
NODES = {f"{NODE}/1": "n1", f"{NODE}/2": "n2"}
LIMIT = 10.0  # seconds until a table has to be right
_SAMPLE = 16
_POLICY_KINDS = ("NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "AdminNetworkPolicy",
                 "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")  # fmt: skip


def manifest(pod: str) -> Object:
    """Two servers; every port has a name, also those where nobody listens but a raw socket."""
    space, _, name = pod.partition("/")

    def server(port: int) -> Object:
        names = {"TCP": f"serve-{port}-tcp", "UDP": f"serve-{port}-udp", "SCTP": f"serve-{port}-sctp"}
        return {
            "name": f"serve-{port}", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never",
            "args": ["netexec", f"--http-port={port}", f"--udp-port={port}"],
            "ports": [{"name": called, "containerPort": port, "protocol": protocol} for protocol, called in names.items()],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 2, "timeoutSeconds": 5},
        }  # fmt: skip

    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space, "labels": {"pod": name}},
        "spec": {"nodeName": PODS[pod], "terminationGracePeriodSeconds": 0, "containers": [server(80), server(81)]},
    }  # fmt: skip


def of_its_node(ask: Ask) -> bool:
    """From a node to its own pod: that is let in whatever a policy says, for so a kubelet probes."""
    return NODES.get(ask.by, "") == PODS.get(ask.to)


@dataclass
class World:
    lab: Lab
    api: Api
    table: Table
    ready: dict[str, str]  # since when each pod is
    asks: list[Ask] = field(default_factory=lambda: list(questions((*PODS, *NODES), (*PODS, *NODES, *OUTSIDERS))))
    case: str = "before any test"  # or the one that is running
    changes: list[Converged] = field(default_factory=list)  # what has become right, in order
    tables: list[float] = field(default_factory=list)  # seconds that a whole table took
    now: set[Ask] = field(default_factory=set)  # what is reached, as last seen

    def read(self, text: str) -> list[Object]:
        """Objects, with addresses where pods are meant."""
        filled = re.sub(r"@([a-z]/[a-z])/([46])", lambda found: self.table.addresses[found[1]][int(found[2])], text)
        return [held for held in yaml.safe_load_all(filled) if held]

    def becomes(self, denied: Denied, requested: float, what: str, applied: Collection[Object] = ()) -> None:
        """The table is, within ten seconds of a request, what is expected; asked for when each of what was applied is in force."""
        expected = {ask for ask in self.asks if not denied(ask) or of_its_node(ask)}
        right = self._first_right(expected, sorted(expected ^ self.now), requested)
        self.in_force(applied)
        while True:
            begun = time.monotonic()
            found = self.table.reached(self.asks, expected)
            self.tables.append(time.monotonic() - begun)
            if found == expected:
                break
            right = None  # it was too few
            wrong = f"{what}: reached, and should not be: {told(found - expected)}; not reached: {told(expected - found)}"
            assert begun - requested < LIMIT, wrong
            print(f"{wrong}; asked again", flush=True)
        seconds = (self.table.asked if right is None else right) - requested
        took = round(seconds, 3) if expected != self.now else None
        self.changes.append(Converged(self.case, what, len(self.asks) - len(expected), len(self.asks), took))
        print(f"{what}: {len(self.asks) - len(expected)} of {len(self.asks)} denied, after {seconds:.2f} s; "
              f"the table took {self.tables[-1]:.2f} s", flush=True)  # fmt: skip
        self.now = expected

    def _first_right(self, expected: set[Ask], changed: list[Ask], requested: float) -> float | None:
        """When a few of those that change were as they should be."""
        few = changed[:: max(1, len(changed) // _SAMPLE)]
        wanted = expected & set(few)
        while time.monotonic() - requested < LIMIT:
            if self.table.reached(few, wanted, grace=0.03, limit=0.15) == wanted:
                return self.table.asked
        return None

    def in_force(self, applied: Collection[Object]) -> None:
        """Every node says so of each policy."""
        wanted = {one["metadata"]["uid"] for one in applied if one["kind"] in _POLICY_KINDS}
        if not wanted:
            return

        def stand() -> bool:
            nodes = self.api.ask("GET", "/apis/pilus.io/v1alpha1/pilusnodestatuses")["items"]
            held: list[list[dict[str, Any]]] = [node.get("status", {}).get("policies") or [] for node in nodes]
            return len(held) == 2 and all(wanted <= {one["uid"] for one in of if one["realised"]} for of in held)

        wait_for("in force on both nodes", stand, LIMIT, 0.05)

    def opened(self) -> None:
        """Without policies everything is reached."""
        self.becomes(nothing, time.monotonic(), "all open")

    @contextmanager
    def applied(self, text: str) -> Iterator["Change"]:
        """These policies are there inside, and what they are changed to."""
        change = Change(self)
        try:
            change(text)
            yield change
        finally:
            change.end()

    def to_themselves(self) -> list[Ask]:
        """Every pod's questions to its own addresses."""
        kinds = {(ask.port, ask.protocol, ask.family) for ask in self.asks}
        return [Ask(pod, pod, *kind) for pod in PODS for kind in sorted(kinds)]

    def judge(self, case: Case) -> None:
        """The table before, with the policies, and after them."""
        if self.now != set(self.asks):
            self.opened()
        with self.applied(case.policies) as change:
            # Of one that changes nothing, or several together, the table alone would not tell.
            alone = len(change.held) == 1 and any(map(case.denied, self.asks))
            self.becomes(case.denied, change.requested, case.name, () if alone else change.held)
        self.becomes(nothing, change.requested, "open again")

    def summary(self) -> str:
        took = [one.seconds for one in self.changes if one.seconds is not None]
        if not took:
            return "no change of the table came to its end"
        return (
            f"{len(took)} changes of the table: the first right answers after {statistics.median(took):.2f} s "
            f"(median), {max(took):.2f} s at most; {len(self.tables)} tables of {len(self.asks)} questions, "
            f"{statistics.median(self.tables):.2f} s each (median)"
        )


class Change:
    """Policies that are applied, and others in their place. An object that is gone from the text is removed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.held: list[Object] = []
        self.requested = 0.0

    def __call__(self, text: str) -> None:
        wanted = self._world.read(text)
        self.requested = time.monotonic()
        before, self.held = self.held, list(self.held)  # whatever fails, all of them are removed in the end
        kept = {path_of(one) for one in wanted}
        for one in wanted:
            made = self._world.api.apply(one)
            self.held = [*(other for other in self.held if path_of(other) != path_of(made)), made]
        for one in before:
            if path_of(one) not in kept:
                self._world.api.remove(one)
                self.held.remove(one)

    def end(self) -> None:
        self.requested = time.monotonic()
        for one in self.held:
            self._world.api.remove(one)
        self.held = []
