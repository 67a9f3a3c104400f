"""What telling of flows costs: round trips with events and without, in turn, and the observer's part of a CPU.

In: a lab. Off: the rate of events in the programs' settings is 0, so that none is made; it is put back. On: as installed. Out:
medians against those without, and the observer's CPU time while connections are made as fast as they go.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.bench import Bench
from bench.clusters import Cluster, cluster
from bench.figure import Figure, Samples, measured
from bench.kernel import Pinned
from bench.traffic import CONNECTIONS, ROUNDS, Traffic, compile_program
from pilus_maps import syscall
from pilus_maps.layout import Layout

GOAL = 1.03
CPU_GOAL = 0.05  # of one
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> float:
    """A process' own time, user's and kernel's."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@contextmanager
def without_events(made: Cluster) -> Iterator[None]:
    """The rate is 0 on both nodes, and the programs' settings as before afterwards."""
    with ExitStack() as stack:
        for node in ("n1", "n2"):
            root = made.root(node)
            described = json.loads((root / "run/pilus/datapath.json").read_text())["maps"]["settings"]
            layout = Layout(described["value"])
            pinned = stack.enter_context(Pinned(int(root.parent.name)))
            key = bytes(4)
            held = syscall.lookup(pinned.maps["settings"], key, layout.size)
            if held is None:
                raise RuntimeError("a node without settings")
            stack.callback(syscall.update, pinned.maps["settings"], key, held)
            syscall.update(pinned.maps["settings"], key, layout.encode(layout.decode(held) | {"event_rate": 0, "event_burst": 0}))
        yield


def measure(bench: Bench) -> Iterator[Figure]:
    rounds, seconds = bench.rounds(10, 3), 0.5
    found: dict[tuple[str, bool], list[float]] = {}
    share: list[float] = []
    with Traffic(compile_program(bench.folder)) as traffic, cluster("events") as made:
        bench.say("a cluster for flow events")
        made.pods(traffic)
        client, address = made.place("client"), made.address("near")
        observer = made.process("n1", "observer")

        def one(events: bool) -> None:
            began, spent = time.monotonic(), cpu_seconds(observer)
            connects = traffic.run(client, "crr", address, CONNECTIONS, seconds)
            if events:
                share.append((cpu_seconds(observer) - spent) / (time.monotonic() - began))
            found.setdefault(("connect/request/response", events), []).append(connects["p50"] / 1000)
            trips = traffic.run(client, "rr", address, ROUNDS, seconds)
            found.setdefault(("request/response", events), []).append(trips["p50"] / 1000)

        for number in range(rounds):
            bench.say(f"flow events, round {number + 1} of {rounds}")
            for events in (number % 2 == 0, number % 2 == 1):
                if events:
                    one(True)
                else:
                    with without_events(made):
                        one(False)
    for what in ("request/response", "connect/request/response"):
        off = Samples.of(found[what, False])
        yield measured(f"flow events on: {what}, same node", "us p50", Samples.of(found[what, True]), baseline=off.median,
                       of="events off", goal=GOAL)  # fmt: skip
    what = "flow events on: observer's share of a CPU, while connections are made as fast as they go"
    yield measured(what, "", Samples.of(share), goal=CPU_GOAL, judged="value")
