"""What policies cost at scale: 1,000 of them by 5,000 identities by 200 endpoints of a node.

In: made-up policies, as clusters have them. Out: milliseconds, in this process, of the compiler alone and of all that an agent does
in a pass; rows and bytes, beside a design with one table for each endpoint, with a row for each identity and port (computed from
the same compiled policies).
"""

import random
from collections.abc import Iterator

from bench.bench import Bench
from bench.compiler import World, by_application, milliseconds, times
from bench.figure import Figure, Samples, measured
from bench.node import BusyNode
from pilus_agent.desired.policy.tables import Compiled

IDENTITIES, ENDPOINTS = 5000, 200
# Bytes of a row, as the group `footprint` measures them; a row of the other design counts as one of `peers`.
PEER, VERDICT = 80, 56


def sizes(compiled: Compiled) -> tuple[int, int, int, int]:
    """(rows, bytes) of the tables as they are, and of one table for each endpoint."""
    peers = sum(len(tables.peers) + len(tables.cidrs) for policy in compiled.policies.values() for tables in policy.directions)
    verdicts = sum(len(table.rows) for table in compiled.tables().values())
    each = {
        name: sum(
            len(held.table.rows)
            for tables in policy.directions
            for held in (tables.default, *tables.peers.values(), *tables.cidrs.values())
        )
        for name, policy in compiled.policies.items()
    }
    alone = sum(each[applied.policy] for applied in compiled.endpoints.values() if applied.policy)
    return peers + verdicts, peers * PEER + verdicts * VERDICT, alone, alone * PEER


def measure(bench: Bench) -> Iterator[Figure]:
    policies = by_application(random.Random(2))  # noqa: S311
    size = f"{len(policies):,} policies by {IDENTITIES:,} identities by {ENDPOINTS} endpoints"
    bench.say(size)
    worlds = []
    found = []
    for _ in range(bench.rounds(5)):
        worlds.append(World(IDENTITIES, ENDPOINTS))
        found.append(worlds[-1].full(policies))
    world = worlds[-1]
    rows, bytes_, alone, alone_bytes = sizes(world.compiler.compiled())

    def drop(number: int) -> None:
        world.compiler.drop_policies(f"p{number}")
        world.compiler.compiled()

    def put(number: int) -> None:
        world.compiler.put_policies(f"p{number}", (policies[number],))
        world.compiler.compiled()

    yield measured(f"{size}: in full", "ms", Samples.of(found))
    yield measured(f"{size}: one identity more", "ms", times(world.one_more, 50))
    yield measured(f"{size}: one policy deleted", "ms", times(drop, 50))
    yield measured(f"{size}: one policy more", "ms", times(put, 50))
    yield Figure(f"{size}: rows of policy", "rows", rows, baseline=alone, of="one table an endpoint, computed")
    yield Figure(f"{size}: memory of policy", "MB", bytes_ / 1e6, baseline=alone_bytes / 1e6, of="one table an endpoint, computed")
    yield from of_a_pass(bench, size, len(policies))


def of_a_pass(bench: Bench, size: str, policies: int) -> Iterator[Figure]:
    bench.say("the same, all that an agent decides")
    node = BusyNode(policies, IDENTITIES, ENDPOINTS)
    yield Figure(f"{size}: first pass", "ms", milliseconds(node.decide))

    def identity(number: int) -> None:
        node.identity(IDENTITIES + number)
        node.decide()

    def drop(number: int) -> None:
        node.policy(number, there=False)
        node.decide()

    def put(number: int) -> None:
        node.policy(number)
        node.decide()

    yield measured(f"{size}: a pass, one identity more", "ms", times(identity, 50))
    yield measured(f"{size}: a pass, one policy deleted", "ms", times(drop, 50))
    yield measured(f"{size}: a pass, one policy more", "ms", times(put, 50))

    def told(number: int) -> float:
        """After a policy that has changed, and the pass for it."""
        node.policy(number, there=number % 2 == 1)
        node.decide()
        return milliseconds(node.tell)

    yield measured(f"{size}: what is told afterwards", "ms", Samples.of(told(number // 2) for number in range(40)))
