"""What policies cost at scale: 1,000 of them by 5,000 identities by 200 endpoints of a node.

In: made-up policies, as clusters have them; the node's maps of full size. Out: milliseconds, in this process, of the compiler alone
and of all that an agent does in a pass; rows, and the memory that they take of the kernel, beside a design with one table for each
endpoint, with a row for each identity and port (computed from the same compiled policies).
"""

import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.bench import Bench
from bench.compiler import World, by_application, labels_of, milliseconds, times
from bench.figure import Figure, Samples, measured
from bench.kernel import loaded, map_bytes
from bench.node import BusyNode
from pilus_agent.bind.policy_rows import PolicyRows
from pilus_agent.desired.policy.tables import Compiled
from pilus_agent.tables import Tables
from pilus_api.identities import Identity
from pilus_maps import Datapath

IDENTITIES, ENDPOINTS = 5000, 200
OTHER = "one table an endpoint, computed"
Rows = Mapping[str, Mapping[bytes, bytes]]


def rows_of(compiled: Compiled, maps: Mapping[str, Any]) -> Rows:
    """Table -> rows, as an agent writes them. `maps`: of the loader's description."""
    tables = Tables.of(maps)
    for change in PolicyRows().settle(compiled.policies):
        tables.want(change.table, change.key, change.value)
    return {name: tracker.wanted for name, tracker in tables.trackers.items() if tracker.wanted}


def rows_alone(compiled: Compiled) -> int:
    """Rows with one table for each endpoint."""
    each = {
        name: sum(
            len(held.table.rows)
            for tables in policy.directions
            for held in (tables.default, *tables.peers.values(), *tables.cidrs.values())
        )
        for name, policy in compiled.policies.items()
    }
    return sum(each[applied.policy] for applied in compiled.endpoints.values() if applied.policy)


def written(datapath: Datapath, rows: Rows) -> dict[str, int]:
    """Table -> bytes that its map grows by with these rows. Raises ValueError for one that is allocated ahead, and never grows."""
    found = {}
    for name, held in rows.items():
        table = datapath.map(name)
        before = map_bytes(table.fd)
        table.update_raw(held)
        found[name] = map_bytes(table.fd) - before
        if not found[name]:
            raise ValueError(f"map {name} has not grown by {len(held)} rows")
    return found


def of_memory(size: str, rows: Rows, taken: Mapping[str, int], alone: int) -> Iterator[Figure]:
    """`taken`: bytes of each table. A row of the other design has an identity in its key, and is taken for one of `peers`."""
    row = taken["peers"] / len(rows["peers"])
    listed = ", ".join(f"{name} {len(held):,}" for name, held in rows.items())
    each = ", ".join(f"{name} {taken[name] / len(held):.0f}" for name, held in rows.items())
    yield Figure(f"{size}: rows of policy", "rows", sum(map(len, rows.values())), baseline=alone, of=OTHER, note=listed)
    yield Figure(
        f"{size}: memory of policy", "MB", sum(taken.values()) / 1e6, baseline=alone * row / 1e6, of=OTHER,
        note=f"bytes of a row, as the kernel counts what a map grows by (memlock): {each}; a row of the other design taken for one "
        "of peers; not in it: empty maps, and the inner nodes of a trie (verdicts, cidrs), which the kernel does not count",
    )  # fmt: skip


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
    compiled = world.compiler.compiled()

    def identity(number: int) -> None:
        world.compiler.put_identity(Identity(256 + IDENTITIES + number), labels_of(IDENTITIES + number))
        world.compiler.compiled()

    def drop(number: int) -> None:
        world.compiler.drop_policies(f"p{number}")
        world.compiler.compiled()

    def put(number: int) -> None:
        world.compiler.put_policies(f"p{number}", (policies[number],))
        world.compiler.compiled()

    yield measured(f"{size}: in full", "ms", Samples.of(found))
    yield measured(f"{size}: one identity more", "ms", times(identity, 50))
    yield measured(f"{size}: one policy deleted", "ms", times(drop, 50))
    yield measured(f"{size}: one policy more", "ms", times(put, 50))
    yield from of_a_pass(bench, size, len(policies))
    bench.say("the same, as rows in the kernel")
    with tempfile.TemporaryDirectory(dir=bench.folder) as name, loaded(Path(name)) as datapath:
        rows = rows_of(compiled, datapath.description["maps"])
        yield from of_memory(size, rows, written(datapath, rows), rows_alone(compiled))


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
