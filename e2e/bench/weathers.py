"""Figures in three weathers: an established packet in eBPF, and round trips, round by round in turn.

In: a cluster with policies. Out: how far each weather is from quiet, and how many pods a second the churn was.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.api import Api
from bench.bench import Bench
from bench.clusters import Cluster, cluster, wait
from bench.figure import Figure, Samples, Weather, apart, measured
from bench.kernel import ROOT
from bench.traffic import MANY, PORT, ROUNDS, Traffic, compile_program, line
from bench.weather import POLICIES, Weathers, reached
from pilus_cli.client import items
from pilus_lab.lab import LabError

APART = 0.03
WEATHERS: tuple[Weather, ...] = ("quiet", "churn", "flood")
_SECONDS = 0.4


class Established:
    """A connection from the client that stands, and its packets run in the client's node."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ns(self, seconds: float) -> float:
        if self._process.stdin is None or self._process.stdout is None:
            raise LabError("no pipes")
        print(seconds, file=self._process.stdin, flush=True)
        held = self._process.stdout.readline()
        if not held:
            raise LabError("the test runs in the node ended")
        found = json.loads(held)
        if found["verdict"] != 7:  # TC_ACT_REDIRECT
            raise LabError(f"an established packet was not redirected: action {found['verdict']}")
        return float(found["ns"])


@contextmanager
def established(cluster: Cluster, traffic: Traffic, server: str) -> Iterator[Established]:
    source, destination = cluster.address("client"), cluster.address(server)
    with traffic.beside(cluster.place("client"), "hold", destination, PORT + MANY) as held:
        port = line(held)["port"]
        found = items(cluster.root("n1") / "run/pilus/agent.sock", {"get": "endpoints"})
        name = next(str(one["interface"]) for one in found if one["name"] == "client")
        node = cluster.lab.node("n1")
        index = node.exec(["cat", f"/sys/class/net/{name}/ifindex"]).stdout.strip()
        process = subprocess.Popen(
            [*node.entry(), "env", f"PYTHONPATH={ROOT}/e2e:{ROOT}", sys.executable, "-m", "bench.inside",
             index, source, str(port), destination, str(PORT + MANY)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            if process.stdout is None or not process.stdout.readline():
                raise LabError("no test runs in the node")
            yield Established(process)
        finally:
            process.kill()
            process.communicate()


def measure(bench: Bench) -> Iterator[Figure]:
    program = compile_program(bench.folder)
    with Traffic(program) as traffic, cluster("weather") as made, Api(made) as api:
        bench.say("a cluster with policies, for three weathers")
        made.pods(traffic)
        made.apply(*POLICIES)
        wait("the policies to be enforced", lambda: _enforced(made), 60)
        made.lab.control.stop("operator")  # it would take away what it has not written
        weathers = Weathers(made, api, traffic)
        yield from _figures(bench, made, traffic, weathers)


def _enforced(made: Cluster) -> bool:
    held = made.lab.get("ciliumnetworkpolicies")
    return len(held) == len(POLICIES) and all((one.get("status") or {}).get("enforced") == "2/2" for one in held)


def _figures(bench: Bench, made: Cluster, traffic: Traffic, weathers: Weathers) -> Iterator[Figure]:
    rounds = bench.rounds(10, 3)
    packets: dict[tuple[str, Weather], list[float]] = {}
    trips: dict[tuple[str, Weather], list[float]] = {}
    client, where = made.place("client"), {"same node": made.address("near"), "other node": made.address("far")}
    with established(made, traffic, "near") as near, established(made, traffic, "far") as far:
        for number in range(rounds):
            bench.say(f"weathers, round {number + 1} of {rounds}")
            # Each round begins with another weather, so that what drifts is in all of them.
            for name in (*WEATHERS[number % 3 :], *WEATHERS[: number % 3]):
                with weathers.weather(name):
                    for place, held in (("same node", near), ("other node", far)):
                        packets.setdefault((place, name), []).append(held.ns(_SECONDS))
                        ran = traffic.run(client, "rr", where[place], ROUNDS, _SECONDS)
                        trips.setdefault((place, name), []).append(ran["p50"] / 1000)
    for what, unit, found_all in (("eBPF time of an established packet", "ns", packets), ("request/response p50", "us", trips)):
        for place in where:
            quiet = Samples.of(found_all[place, "quiet"])
            yield measured(f"{what}, {place}, with policies", unit, quiet, note=f"{rounds} rounds")
            for name in WEATHERS[1:]:
                other = Samples.of(found_all[place, name])
                found = apart(f"{what}, {place}, with policies", unit, other, quiet, name, APART)
                yield replace(found, note=f"{found.note}; {reached(weathers.churns)}") if name == "churn" else found
