"""An agent that goes and comes: how long until it is ready, and what connections notice.

In: a lab with pods on both nodes. Out: seconds to ready (cold: nothing is loaded, nothing is cached), and, with the agent killed
under 100 connections at 10,000 requests a second: resets, the longest stall, and denied packets that got through.
"""

import shutil
import signal
import time
from collections.abc import Iterator

from bench.bench import Bench
from bench.clusters import Cluster, cluster, pod, wait
from bench.enforcement import read
from bench.figure import Figure, Samples, measured
from bench.traffic import MANY, PORT, Traffic, compile_program, line, other_cpus
from bench.weather import POLICIES

COLD_GOAL, AGAIN_GOAL = 4.0, 1.0  # s
STALL_GOAL = 20.0  # ms
CONNECTIONS, RATE = 100, 10_000
_AWAY, _BEFORE, _AFTER = 3.0, 2.0, 5.0  # s


def ready_after(made: Cluster, node: str) -> float:
    """Start the agent; seconds from there to all being well, as it says itself."""
    made.lab.start_agent(node)  # fetches a token first, which a pod finds in its volume: not counted
    began = time.monotonic()
    wait("the agent to be ready", lambda: made.ready(node), 60, 0.01)
    return time.monotonic() - began


def restarts(bench: Bench, made: Cluster) -> Iterator[Figure]:
    made.spread()
    made.apply(*(pod(f"more-{number}", "n2") for number in range(10)))
    wait("ten pods more", lambda: sum(one["status"].get("phase") == "Running" for one in made.lab.get("pods")) >= 14, 90)
    again, cold = [], []
    for number in range(bench.rounds(7, 2)):
        bench.say(f"agent restarts, {number + 1}")
        made.lab.node("n2").stop("agent")
        again.append(ready_after(made, "n2"))
    yield measured("agent ready after a restart, 12 pods and 20 policies", "s", Samples.of(again), goal=AGAIN_GOAL, judged="value")
    made.lab.kubectl("delete", "pods", "--all", "--grace-period=0", "--wait=true")
    for number in range(bench.rounds(3, 1)):
        bench.say(f"agent cold starts, {number + 1}")
        made.lab.node("n2").stop("agent")
        root = made.root("n2")
        for path in (root / "sys/fs/bpf/pilus", root / "var/lib/pilus", root / "run/pilus"):
            shutil.rmtree(path, ignore_errors=True)
        cold.append(ready_after(made, "n2"))
    yield measured("agent ready, cold", "s", Samples.of(cold), goal=COLD_GOAL, judged="value",
                   note="header tree made, programs compiled, maps and links made")  # fmt: skip


def killed(bench: Bench, made: Cluster, traffic: Traffic) -> Iterator[Figure]:
    """On the server's node, which is another than the client's, and with the client's too."""
    made.apply(*POLICIES)
    wait("the policies to be enforced", lambda: all(
        (one.get("status") or {}).get("enforced") == "2/2" for one in made.lab.get("ciliumnetworkpolicies")), 60)  # fmt: skip
    seconds = _BEFORE + _AWAY + _AFTER
    for where, server, node in (("other node", "far", "n2"), ("same node", "near", "n1")):
        stalls, quiet, resets, leaks, denied = [], [], 0, 0, 0
        for number in range(bench.rounds(3, 1)):
            bench.say(f"agent killed under load, {where}, {number + 1}")
            calm = traffic.run(made.place("client"), "load", made.address(server), MANY, 3, CONNECTIONS, RATE)
            quiet.append(calm["stall"] / 1e6)
            records = bench.folder / "denied"
            load = traffic.start(made.place("client"), "load", made.address(server), PORT + MANY, seconds, CONNECTIONS, RATE)
            refused = traffic.start(made.place("stranger"), "pulse", made.address(server), PORT + MANY, seconds, 1000, records,
                                    cpu=min(other_cpus()))  # fmt: skip
            line(load)
            time.sleep(_BEFORE)
            made.lab.node(node).stop("agent", signal.SIGKILL)
            time.sleep(_AWAY)
            ready_after(made, node)
            done = traffic.finish(load, seconds)
            traffic.finish(refused, seconds)
            made.keep_off()
            stalls.append(done["stall"] / 1e6)
            resets += done["resets"]
            pulses = read(records)
            denied += len(pulses)
            leaks += sum(answered for _, answered in pulses)
        what = f"agent killed, {_AWAY:.0f} s away, {CONNECTIONS} connections at {RATE:,} requests/s, {where}"
        yield Figure(f"{what}: resets", "", resets, goal=0, judged="value")
        yield measured(f"{what}: longest stall", "ms", Samples.of(stalls), baseline=Samples.of(quiet).median,
                       of="the same load, nothing killed", goal=STALL_GOAL, judged="value")  # fmt: skip
        yield Figure(f"{what}: denied datagrams answered", "", leaks, goal=0, judged="value", note=f"of {denied:,} sent")


def measure(bench: Bench) -> Iterator[Figure]:
    with Traffic(compile_program(bench.folder)) as traffic, cluster("restart") as made:
        bench.say("a cluster whose agents are killed")
        made.pods(traffic)
        yield from killed(bench, made, traffic)
        yield from restarts(bench, made)
