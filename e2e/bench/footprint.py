"""Memory: the processes', the maps', and what a flow, an identity and a rule take of it.

In: a lab with some pods and policies; maps of full size, filled by hand. Out: MB and bytes. A map's bytes are the kernel's own word
(fdinfo's memlock), which counts a row that is not there yet where the map is allocated ahead.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.bench import Bench
from bench.clusters import Cluster, cluster, pod, wait
from bench.figure import Figure, Samples, measured
from bench.kernel import Pinned, loaded, map_bytes
from bench.weather import POLICIES
from pilus_maps import Datapath

RESIDENT_GOALS = {"agent": 100.0, "operator": 100.0, "observer": 80.0}  # MB
MAPS_GOAL = 125.0  # MB
ROWS = 20_000


def resident(process: int) -> float:
    """MB."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{process}/status").read_text(), flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"process {process} has ended")
    return int(found[1]) / 1024


def processes(made: Cluster) -> Iterator[Figure]:
    made.apply(*(pod(f"pod-{number}", f"n{1 + number % 2}") for number in range(20)), *POLICIES)
    wait("the pods", lambda: sum(one["status"].get("phase") == "Running" for one in made.lab.get("pods")) == 20, 120)
    wait("the policies", lambda: all(
        (one.get("status") or {}).get("enforced") == "2/2" for one in made.lab.get("ciliumnetworkpolicies")), 60)  # fmt: skip
    for name, goal in RESIDENT_GOALS.items():
        places = ("control",) if name == "operator" else ("n1", "n2")
        found = Samples.of(resident(made.process(place, name)) for place in places)
        yield measured(f"{name}, resident", "MB", found, goal=goal, judged="value", note="10 pods a node, 20 policies")
    with Pinned(int(made.root("n1").parent.name)) as pinned:
        held = pinned.bytes()
    largest = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(held.items(), key=lambda one: -one[1])[:5])
    yield Figure("eBPF maps of a node, as they are", "MB", sum(held.values()) / 1e6, goal=MAPS_GOAL, judged="value", note=largest)


def a_row(datapath: Datapath, name: str, key: Callable[[int], Any], value: Any) -> float:
    """Bytes that one more row takes: what the map grows by, or, where it is allocated ahead, its size over its rows."""
    table = datapath.map(name)
    before = map_bytes(table.fd)
    if table.key is None:
        raise TypeError(f"{name} has no keys")
    row = table.value.encode(value)
    table.update_raw({table.key.encode(key(number)): row for number in range(ROWS)})
    grown = map_bytes(table.fd) - before
    table.clear()
    return grown / ROWS if grown else before / table.max_entries


def _address(number: int) -> bytes:
    return number.to_bytes(4, "big").ljust(16, b"\0")


def _flow(number: int) -> dict[str, Any]:
    return {"zone": 1, "family": 4, "protocol": 6, "source": _address(number), "destination": _address(1),
            "source_port": number & 0xFFFF, "destination_port": 80}  # fmt: skip


def rows(bench: Bench) -> Iterator[Figure]:
    """`flows` has two rows a connection at a hook: one of each direction."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as name, loaded(Path(name)) as datapath:
        empty = {one: map_bytes(datapath.map(one).fd) for one in datapath.description["maps"]}
        flow = a_row(datapath, "flows", _flow, {})
        peer = a_row(datapath, "peers", lambda n: {"policy": 1, "direction": n & 1, "identity": n}, {"table": 1, "number": 1})
        rule = a_row(datapath, "verdicts", lambda n: {"length": 64, "table": n >> 8, "protocol": 6, "port": n & 0xFF},
                     {"decision": 1, "precedence": 1, "rule": 1})  # fmt: skip
        address = a_row(datapath, "ipcache", lambda n: {"length": 64, "family": 4, "address": _address(n)}, {"identity": 300})
        known = a_row(datapath, "identities", int, {"cluster": 0})
        sizes = {one: datapath.map(one).max_entries for one in ("flows", "peers", "verdicts", "ipcache", "identities")}
    yield Figure("bytes of a flow (both directions)", "bytes", 2 * flow)
    yield Figure("bytes of an identity and policy", "bytes", peer, note="a peer's row in one direction of one policy")
    yield Figure("bytes of a rule (a port of a port table)", "bytes", rule, note="shared by all classes with the same table")
    yield Figure("bytes of an identity", "bytes", known)
    yield Figure("bytes of a pod's address", "bytes", address)
    full = sum(empty.values()) + sum(
        row * sizes[one]
        for one, row in (("flows", flow), ("peers", peer), ("verdicts", rule), ("ipcache", address), ("identities", known))
    )
    yield Figure("eBPF maps of a node, every growing table full", "MB", full / 1e6, goal=MAPS_GOAL, judged="value",
                 note=", ".join(f"{one} {count:,}" for one, count in sizes.items()))  # fmt: skip


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say("bytes of rows")
    yield from rows(bench)
    with cluster("memory") as made:
        bench.say("resident memory, with 10 pods a node")
        yield from processes(made)
