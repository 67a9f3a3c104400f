"""How long the policy compiler takes: 1,000 rules by 3,000 identities, in full and for one identity more.

In: made-up rules, as clusters have them. Out: milliseconds, in this process, with nothing of a kernel.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

from bench.bench import Bench
from bench.figure import Figure, Samples, measured
from pilus_agent.desired.policy.compiler import PolicyCompiler
from pilus_agent.desired.policy.tables import Endpoint
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rules import Direction, Origin, Policy, Ports, Rule
from pilus_api.selectors import EVERYTHING, Operator, Requirement, equals, selector

RULES = 1000
IDENTITIES = 3000
NAMESPACES = 60
APPS = 50
SETS = NAMESPACES * APPS  # of labels, as pods of a cluster share them
ENDPOINTS = 100
FULL_GOAL, MORE_GOAL = 100.0, 2.0  # ms


def labels_of(number: int) -> Labels:
    """Different for each number; beyond the sets that pods share, with a label that nobody else has."""
    return canonical(
        [
            *([Label("k8s", "unique", str(number))] if number >= SETS else []),
            Label("k8s", "io.kubernetes.pod.namespace", f"ns-{number % NAMESPACES}"),
            Label("k8s", "app", f"app-{number // NAMESPACES % APPS}"),
            Label("k8s", "tier", ("web", "api", "data")[number % 3]),
            Label("k8s", "version", f"v{number % 5}"),
        ]
    )


def rule(number: int, chance: random.Random, path: str) -> Rule:
    """Mostly one application in one namespace; some a tier of a namespace; a few a tier of all but one version."""
    namespace = equals("k8s", "io.kubernetes.pod.namespace", f"ns-{chance.randrange(NAMESPACES)}")
    peer = selector(namespace, equals("k8s", "app", f"app-{chance.randrange(APPS)}"))
    if number % 10 == 0:
        peer = selector(namespace, equals("any", "tier", chance.choice(("web", "api", "data"))))
    elif number % 100 == 1:
        peer = selector(equals("any", "tier", "web"), Requirement("k8s", "version", Operator.NOT_IN, (f"v{number % 5}",)))
    port = chance.randrange(1, 60000)
    ports = (Ports(6, port, port), Ports(17, port, port + 1000)) if number % 7 == 0 else (Ports(6, port, port),)
    origin = Origin("CiliumNetworkPolicy", "ns", f"p{number}", f"uid-{number}", path)
    return Rule(origin, Direction(number % 2), number % 20 == 0, (peer,), ports)


def one_set(chance: random.Random) -> list[Policy]:
    """All rules apply to every endpoint."""
    rules = [rule(number, chance, "spec") for number in range(RULES)]
    return [Policy(each.origin, EVERYTHING, (True, True), (each,)) for each in rules]


def by_application(chance: random.Random) -> list[Policy]:
    """Each rule applies to one application, a few to all: as many rule sets as applications."""
    found = []
    for number in range(RULES):
        each = rule(number, chance, "spec")
        subject = EVERYTHING if number % 100 == 0 else selector(equals("k8s", "app", f"app-{number % APPS}"))
        found.append(Policy(each.origin, subject, (True, True), (each,)))
    return found


def milliseconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1000


def times(work: Callable[[int], object], count: int) -> Samples:
    return Samples.of(milliseconds(partial(work, number)) for number in range(count))


class World:
    """A compiler that has learned all identities and endpoints, and no policy."""

    def __init__(self, identities: int = IDENTITIES, endpoints: int = ENDPOINTS) -> None:
        self.compiler = PolicyCompiler(budget=1 << 32)
        for identity, labels in RESERVED.items():
            self.compiler.put_identity(identity, labels)
        for number in range(identities):
            self.compiler.put_identity(Identity(256 + number), labels_of(number))
        for number in range(endpoints):
            self.compiler.put_endpoint(f"pod-{number}", Endpoint(labels_of(number * 29 % SETS), {}))

    def full(self, policies: list[Policy]) -> float:
        """Milliseconds from the rules to all tables."""

        def work() -> None:
            for number, policy in enumerate(policies):
                self.compiler.put_policies(f"p{number}", (policy,))
            self.compiler.compiled()

        return milliseconds(work)

    def one_more(self, number: int) -> None:
        self.compiler.put_identity(Identity(20000 + number), labels_of(number * 61))
        self.compiler.compiled()

    def one_less(self, number: int) -> None:
        self.compiler.drop_identity(Identity(20000 + number))
        self.compiler.compiled()

    def endpoint(self, number: int) -> None:
        self.compiler.put_endpoint(f"more-{number}", Endpoint(labels_of(number * 29), {}))
        self.compiler.compiled()


def of(name: str, policies: list[Policy], rounds: int) -> Iterator[Figure]:
    worlds = []
    found = []
    for _ in range(rounds):
        worlds.append(World())
        found.append(worlds[-1].full(policies))
    world = worlds[-1]
    more, less, known = times(world.one_more, 50), times(world.one_less, 50), times(world.endpoint, 20)
    compiled = world.compiler.compiled()
    classes = sum(len(policy.classes()) for policy in compiled.policies.values())
    rows = sum(policy.rows for policy in compiled.policies.values())
    sets, tables = len(compiled.policies), len(compiled.tables())
    note = f"{ENDPOINTS} endpoints, {sets} rule sets, {classes} classes, {tables} port tables, {rows} rows"
    size = f"{RULES:,} rules by {IDENTITIES:,} identities, {name}"
    yield measured(f"policy compiler, {size}: in full", "ms", Samples.of(found), goal=FULL_GOAL, judged="value", note=note)
    yield measured(f"policy compiler, {size}: one identity more", "ms", more, goal=MORE_GOAL, judged="value")
    yield measured(f"policy compiler, {size}: one identity less", "ms", less)
    yield measured(f"policy compiler, {size}: one endpoint more of a known rule set", "ms", known)


def measure(bench: Bench) -> Iterator[Figure]:
    for name, policies in (("every rule for every endpoint", one_set), ("rules by application", by_application)):
        bench.say(f"policy compiler, {name}")
        yield from of(name, policies(random.Random(1)), bench.rounds(7))  # noqa: S311
