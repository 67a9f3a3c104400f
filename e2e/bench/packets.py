"""What a packet costs in the programs alone, by BPF_PROG_TEST_RUN: established, and decided from nothing.

In: the programs with a healthy agent's tables, and programs to compare with, on the measured CPU. Out: ns a packet. A frame that
is routed loses a hop a run, so those run 250 times from TTL 255.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, THERE, WEB
from tests.packets.harness.frames import from_pod, raw, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import ALLOW, DENY, Node, Rule, Side
from tests.packets.harness.scenario import FromHost, FromPod, FromTunnel, Point
from tests.packets.harness.testrun import TestRun

from bench.bench import Bench
from bench.figure import Figure, Samples, measured
from bench.kernel import compared, loaded
from bench.traffic import measured_cpu
from pilus_maps import Datapath

ESTABLISHED_GOAL = 2.0  # times one lookup
SLOW_GOAL = 1500.0  # ns
ROWS = 100_000
_HOPS = 250
_POLICY = 7
Case = tuple[Point, Packet, Point, Packet]


def cases(family: int) -> dict[str, Case]:
    """A packet, and the one that answers it."""
    pod, web, far, host = (CLIENT.address(family), WEB.address(family), FAR.address(family), router(family))
    return {
        "pod to pod": (FromPod(CLIENT), from_pod(CLIENT, web, tcp(40000, 80, "A"), ttl=255),
                       FromPod(WEB), from_pod(WEB, pod, tcp(80, 40000, "A"), ttl=255)),
        "pod to this host": (FromPod(CLIENT), from_pod(CLIENT, host, udp(1, 2)), FromHost(CLIENT), to_pod(host, CLIENT, udp(2, 1))),
        "this host to pod": (FromHost(WEB), to_pod(host, WEB, udp(1, 2)), FromPod(WEB), from_pod(WEB, host, udp(2, 1))),
        "pod to tunnel": (FromPod(CLIENT), from_pod(CLIENT, far, udp(1, 2), ttl=255),
                          FromTunnel(THERE, FAR.identity), tunnelled(far, pod, udp(2, 1), ttl=255)),
        "tunnel to pod": (FromTunnel(THERE, FAR.identity), tunnelled(far, web, udp(1, 2), ttl=255),
                          FromPod(WEB), from_pod(WEB, far, udp(2, 1), ttl=255)),
    }  # fmt: skip


def samples(run: Callable[[int], int], repeat: int, times: int) -> Samples:
    """The means of `times` test runs of `repeat` each, in ns."""
    run(min(repeat, _HOPS))
    return Samples.of(run(repeat) for _ in range(times))


def established(bench: Bench, harness: TestRun, against: Datapath, family: int) -> Iterator[Figure]:
    """Every flow but the last has seen both its sides, so its entry is in `flows`. The comparison is taken again beside each."""
    harness.node.reset()
    held = cases(family)
    key = harness.node.flow_key("POD_OUT", CLIENT.address(family), WEB.address(family), 6, (40000, 80))
    against.map("embryonic").update(key, {})
    plain = raw(held["pod to pod"][1])
    times = bench.rounds(2000, 400)
    for name, (at, frame, back, answer) in held.items():
        for where, one in ((at, frame), (back, answer), (at, frame)):
            if reason := harness.send(where, raw(one)).reason:
                raise RuntimeError(f"{name}: the frame was dropped, {harness.node.datapath.reason(reason)}")
        lookup = _program(against, "one_lookup", plain, times)
        found = samples(lambda repeat, at=at, frame=frame: harness.run(at, raw(frame), repeat)[2], _HOPS, times)  # type: ignore[misc]
        yield measured(f"established packet, {name}, IPv{family}", "ns", found, baseline=lookup.median, of="one LRU lookup",
                       goal=ESTABLISHED_GOAL)  # fmt: skip
    nothing, lookup = _program(against, "nothing", plain, times), _program(against, "one_lookup", plain, times)
    yield measured(f"parse and one LRU lookup, IPv{family}", "ns", lookup, baseline=nothing.median, of="empty program")


def _program(against: Datapath, name: str, frame: bytes, times: int) -> Samples:
    program = against.program(name)
    return samples(lambda repeat: program.test_run(frame, repeat=repeat)[2], _HOPS, times)


def slow(bench: Bench, harness: TestRun, against: Datapath, family: int) -> Iterator[Figure]:
    """First packets of connections that a policy allows, and that it denies, with 100,000 rows of verdicts."""
    plain = raw(cases(family)["pod to pod"][1])
    empty = against.program("nothing")
    hook = harness.node.hooks["PILUS_HOOK_POD_FROM"]
    nothing = Samples.of(empty.test_run(plain)[2] for _ in range(2000))
    rules = (Rule(1, ALLOW, 6, 80), Rule(2, DENY, 6, 81))
    for name, port in (("allowed", 80), ("denied", 81)):
        policies = {_POLICY: (Side(), Side(peers={WEB.identity: rules}))}
        harness.node.reset(policies=policies, pods={CLIENT.name: _POLICY})
        fill(harness.node, ROWS)
        ports = itertools.count(1024)
        count = bench.rounds(20000, 3000)
        frames = [raw(from_pod(CLIENT, WEB.address(family), tcp(next(ports), port))) for _ in range(count)]
        expected = harness.node.reason("POLICY_DENY") if name == "denied" else 0
        before = harness.node.counters().get((hook, expected), 0)
        found = [harness.run(FromPod(CLIENT), frame)[2] for frame in frames]
        if (counted := harness.node.counters().get((hook, expected), 0) - before) != count:
            raise RuntimeError(f"of {count} packets {counted} were {name}")
        yield measured(
            f"slow path, new connection {name} at {ROWS:,} verdict rows, IPv{family}", "ns", Samples.of(found), goal=SLOW_GOAL,
            judged="value", note=f"each a new tuple, run once; an empty program run once reads {nothing.median:.0f} ns",
        )  # fmt: skip


def fill(node: Node, rows: int) -> None:
    """Port tables of other policies, to this many rows in all."""
    verdicts = node.datapath.map("verdicts")
    if verdicts.key is None:
        raise TypeError("verdicts has no keys")
    row = verdicts.value.encode({"decision": ALLOW, "precedence": 1, "rule": 1})
    batch = {
        verdicts.key.encode({"length": 64, "table": 1_000_000 + number // 100, "protocol": 6, "port": number % 100 + 1}): row
        for number in range(rows)
    }
    verdicts.update_raw(batch)


def measure(bench: Bench) -> Iterator[Figure]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {measured_cpu()})
    try:
        with (
            tempfile.TemporaryDirectory(dir=bench.folder) as name, loaded(Path(name)) as datapath, compared() as against,
            TestRun(Node(datapath)) as harness,
        ):  # fmt: skip
            for family in (4, 6):
                bench.say(f"established packets, IPv{family}")
                yield from established(bench, harness, against, family)
                bench.say(f"slow path, IPv{family}")
                yield from slow(bench, harness, against, family)
    finally:
        os.sched_setaffinity(0, before)
