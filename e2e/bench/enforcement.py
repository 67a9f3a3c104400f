"""How long from the API server being asked for a policy until packets obey it: the kernel's moment, not a status'.

In: a lab, and a stream of numbered datagrams 2,000 times a second between two pods. Out: milliseconds from sending the request to
the first datagram that was judged by the new policy; beside them, until a watcher that does nothing else has heard of it.

The cluster may use every CPU: the datagrams need few of any, and all the parts of a cluster act on a policy at once.
"""

import json
import math
import struct
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench.api import Api, Wire
from bench.bench import Bench
from bench.clusters import Cluster, cluster
from bench.figure import Figure, Samples, Weather
from bench.traffic import MANY, PORT, Traffic, compile_program, line
from bench.weather import POLICIES, Weathers, reached

RATE = 2000
PAUSE = 0.25  # s between requests: what is not enforced by then counts as this
MEDIAN_GOAL, LAST_GOAL = 10.0, 30.0  # ms: p50, and p99
_REQUEST = 0.1  # s that one takes at most, on the whole
_SURE = 20  # datagrams in a row with the new fate; one may be lost for other reasons
NOBODY = {"matchLabels": {"app": "nobody"}}
CASES: tuple[tuple[str, Weather, str, str, dict[str, Any]], ...] = (
    ("CiliumNetworkPolicy, other node", "quiet", "far", "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies", {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "closed"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "far"}}, "ingress": [{"fromEndpoints": [NOBODY]}]},
    }),
    ("NetworkPolicy, same node", "quiet", "near", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "near"}}, "policyTypes": ["Ingress"],
                 "ingress": [{"from": [{"podSelector": NOBODY}]}]},
    }),
    ("CiliumNetworkPolicy, other node, pods with unique labels", "churn", "far",
     "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies", {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "closed"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "far"}}, "ingressDeny": [{"fromEntities": ["all"]}]},
    }),
)  # fmt: skip


def read(path: Path) -> list[tuple[int, bool]]:
    """Of each datagram: when it went (ns), and whether it was answered."""
    return [(sent, answered > 0) for sent, answered in struct.iter_unpack("=qq", path.read_bytes())]


def moment(pulses: list[tuple[int, bool]], asked: int, answered: bool) -> float:
    """Milliseconds from `asked` (ns) to the first datagram with this fate that many share; infinite if there is none."""
    run: int | None = None
    length = 0
    for sent, fate in pulses:
        if sent < asked:
            continue
        if fate != answered:
            run, length = None, 0
            continue
        run, length = (sent if run is None else run), length + 1
        if length == _SURE:
            return (run - asked) / 1e6
    return math.inf


def changes(bench: Bench, made: Cluster, traffic: Traffic, case: int, times: int) -> dict[bool, tuple[Samples, Samples]]:
    """Milliseconds until closed (False) and until open again (True), each with those until a watcher had heard of it: of other
    requests, a quarter as many, for somebody who listens takes time as well."""
    _, _, server, path, body = CASES[case]
    seconds = times * 2 * (PAUSE + _REQUEST) + 1.5
    records = bench.folder / f"pulse-{case}"
    process = traffic.start(made.place("client"), "pulse", made.address(server), PORT + MANY, seconds, RATE, records)
    line(process)

    def turns(wire: Wire, count: int) -> list[tuple[int, bool]]:
        """When what was asked for, and whether that is to be open."""
        ready, asked = json.dumps(body).encode(), []
        for _ in range(count):
            asked.append((time.monotonic_ns(), False))
            wire.send("POST", path, ready)
            time.sleep(PAUSE)
            asked.append((time.monotonic_ns(), True))
            wire.send("DELETE", f"{path}/closed")
            time.sleep(PAUSE)
        return asked

    def heard(wire: Wire) -> dict[bool, Samples]:
        with wire.heard(made, path) as told:
            asked = turns(wire, max(times // 4, 1))
        taken: dict[bool, list[float]] = {False: [], True: []}
        for at, fate in asked:
            kind = "DELETED" if fate else "ADDED"
            taken[fate].append((min((when for when, what in told if what == kind and when > at), default=math.inf) - at) / 1e6)
        return {fate: Samples.of(found) for fate, found in taken.items()}

    asked = Wire.use(made, lambda wire: turns(wire, times))
    traffic.finish(process, seconds)
    pulses = read(records)
    records.unlink()
    found: dict[bool, list[float]] = {False: [], True: []}
    for number, (at, answered) in enumerate(asked):
        until = asked[number + 1][0] if number + 1 < len(asked) else pulses[-1][0] + 1
        taken = moment([one for one in pulses if at <= one[0] < until], at, answered)
        if taken == math.inf:
            bench.say(f"request {number} was not enforced within {PAUSE} s")
        found[answered].append(min(taken, PAUSE * 1000))
    told = Wire.use(made, heard)
    return {fate: (Samples.of(found[fate]), told[fate]) for fate in found}


def measure(bench: Bench) -> Iterator[Figure]:
    times = bench.rounds(200, 10)
    with Traffic(compile_program(bench.folder)) as traffic, cluster("policy") as made, Api(made) as api:
        bench.say("a cluster for policies that come and go")
        made.pods(traffic)
        made.spread()
        weathers: Weathers | None = None
        for number, (name, weather, *_) in enumerate(CASES):
            bench.say(f"{name}: {times} times closed and opened")
            if weather != "quiet" and weathers is None:
                made.apply(*POLICIES)
                made.lab.control.stop("operator")  # it would take away what it has not written
                weathers = Weathers(made, api, traffic)
            with weathers.weather(weather, unique=True) if weathers else nullcontext():
                samples = changes(bench, made, traffic, number, times)
            said = reached(weathers.churns) if weathers and weather == "churn" else ""
            for fate, what in ((False, "API request to enforced"), (True, "API request to open again")):
                goals = (MEDIAN_GOAL, LAST_GOAL) if weather == "quiet" and not fate else (None, None)
                yield from figures(f"{what}, {name}", f"of {times}", weather, *samples[fate], goals, said)


def figures(
    name: str, of: str, weather: Weather, taken: Samples, heard: Samples, goals: tuple[float | None, float | None], said: str
) -> Iterator[Figure]:
    """`said`: what is to be known of the weather."""
    until = "until a watcher hears of it"
    yield Figure(f"{name}, p50 {of}", "ms", taken.median, weather, taken.spread, heard.median, until, goals[0], judged="value",
                 note=said)  # fmt: skip
    yield Figure(f"{name}, p99 {of}", "ms", taken.last_percent, weather, None, heard.last_percent, until, goals[1], judged="value",
                 note="; ".join(filter(None, (f"at most {taken.most:.1f} ms", said))))  # fmt: skip
