"""How long the policy compiler takes. Run: .venv/bin/python -m tests.properties.bench.policy. Prints, asserts nothing."""

import random
from collections.abc import Callable
from functools import partial
from time import perf_counter

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
ENDPOINTS = 100


def labels_of(number: int) -> Labels:
    return canonical(
        [
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


def median(work: Callable[[int], object], times: int) -> float:
    return sorted(milliseconds(partial(work, number)) for number in range(times))[times // 2]


def measure(name: str, policies: list[Policy]) -> None:
    compiler = PolicyCompiler(budget=1 << 32)
    for identity, labels in RESERVED.items():
        compiler.put_identity(identity, labels)

    def learn() -> None:
        for number in range(IDENTITIES):
            compiler.put_identity(Identity(256 + number), labels_of(number))

    learning = milliseconds(learn)
    for number in range(ENDPOINTS):
        compiler.put_endpoint(f"pod-{number}", Endpoint(labels_of(number * 29), {}))

    def full() -> None:
        for number, policy in enumerate(policies):
            compiler.put_policies(f"p{number}", (policy,))
        compiler.compiled()

    compiling = milliseconds(full)

    def one_more(number: int) -> None:
        compiler.put_identity(Identity(20000 + number), labels_of(number * 61))
        compiler.compiled()

    def one_less(number: int) -> None:
        compiler.drop_identity(Identity(20000 + number))
        compiler.compiled()

    def endpoint(number: int) -> None:
        compiler.put_endpoint(f"more-{number}", Endpoint(labels_of(number * 29), {}))
        compiler.compiled()

    more, less, known = median(one_more, 50), median(one_less, 50), median(endpoint, 20)
    compiled = compiler.compiled()
    classes = sum(len(policy.classes()) for policy in compiled.policies.values())
    rows = sum(policy.rows for policy in compiled.policies.values())
    print(f"{name}: {RULES} rules, {IDENTITIES} identities, {ENDPOINTS} endpoints")
    print(f"  rule sets {len(compiled.policies)}, classes {classes}, port tables {len(compiled.tables())}, rows {rows}")
    print(f"  learning the identities {learning:.1f} ms, full compile {compiling:.1f} ms")
    print(f"  one identity more {more:.2f} ms, one less {less:.2f} ms, one endpoint of a known rule set {known:.2f} ms")


def main() -> None:
    measure("every rule for every endpoint", one_set(random.Random(1)))  # noqa: S311
    measure("rules by application", by_application(random.Random(1)))  # noqa: S311


if __name__ == "__main__":
    main()
