"""What an established packet costs, against an empty program and against one that parses and looks up once in an LRU.

``python tests/packets/bench.py`` (root). BPF_PROG_TEST_RUN on one CPU, medians; a frame that is routed loses a hop a run, so
those are measured in runs of 250 from TTL 255. Ratios are above the empty program, which is what a test run itself costs.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, THERE, WEB
from tests.packets.harness.frames import from_pod, raw, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import FromHost, FromPod, FromTunnel, Point
from tests.packets.harness.testrun import TestRun

from pilus_agent.datapath.programs import ensure_loaded
from pilus_maps import Datapath

ROOT = Path(__file__).parents[2]
GOAL = 2.0
SLOW = "slow path (a SYN to this host)"
_HOPS = 250


def median(run: Callable[[int], int], repeat: int, times: int) -> float:
    """Of the means of `times` test runs of `repeat` each, in ns."""
    run(min(repeat, _HOPS))
    return statistics.median(run(repeat) for _ in range(times))


def baseline(pins: Path, folder: Path) -> Datapath:
    command = ["/usr/bin/python3", "-I", str(ROOT / "nodeagent/pilus_agent/datapath/loader.py"),
               "--source", str(Path(__file__).with_name("baseline")), "--pins", str(pins),
               "--description", str(folder / "baseline.json"), "--cache", str(folder)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return Datapath.open(folder / "baseline.json")


def measure(harness: TestRun, compared: Datapath, family: int) -> dict[str, float]:
    """ns a packet. Every flow but the last has seen both its sides, so its entry is in `flows`."""
    harness.node.reset()
    pod, web, far, host = (CLIENT.address(family), WEB.address(family), FAR.address(family), router(family))
    cases: dict[str, tuple[Point, Packet, Point, Packet]] = {
        "pod to pod": (FromPod(CLIENT), from_pod(CLIENT, web, tcp(40000, 80, "A"), ttl=255),
                       FromPod(WEB), from_pod(WEB, pod, tcp(80, 40000, "A"), ttl=255)),
        "pod to this host": (FromPod(CLIENT), from_pod(CLIENT, host, udp(1, 2)), FromHost(CLIENT), to_pod(host, CLIENT, udp(2, 1))),
        "this host to pod": (FromHost(WEB), to_pod(host, WEB, udp(1, 2)), FromPod(WEB), from_pod(WEB, host, udp(2, 1))),
        "pod to tunnel": (FromPod(CLIENT), from_pod(CLIENT, far, udp(1, 2), ttl=255),
                          FromTunnel(THERE, FAR.identity), tunnelled(far, pod, udp(2, 1), ttl=255)),
        "tunnel to pod": (FromTunnel(THERE, FAR.identity), tunnelled(far, web, udp(1, 2), ttl=255),
                          FromPod(WEB), from_pod(WEB, far, udp(2, 1), ttl=255)),
    }  # fmt: skip
    key = harness.node.flow_key("POD_OUT", pod, web, 6, (40000, 80))
    compared.map("embryonic").update(key, {})
    plain = raw(cases["pod to pod"][1])
    found: dict[str, float] = {}
    for name in ("nothing", "one_lookup"):
        program = compared.program(name)
        found[name] = median(lambda repeat, program=program: program.test_run(plain, repeat=repeat)[2], 1_000_000, 7)  # type: ignore[misc]
    for name, (at, frame, back, answer) in cases.items():
        for where, one in ((at, frame), (back, answer), (at, frame)):
            assert not harness.send(where, raw(one)).reason
        many = (1_000_000, 7) if "host" in name else (_HOPS, 4000)
        found[name] = median(lambda repeat, at=at, frame=frame: harness.run(at, raw(frame), repeat)[2], *many)  # type: ignore[misc]
    # To this host: a frame with another pod's MACs, as a delivery leaves it, would be refused in the second run.
    first = raw(from_pod(CLIENT, host, tcp(40001, 80)))
    found[SLOW] = median(lambda repeat: harness.run(FromPod(CLIENT), first, repeat)[2], 100_000, 7)
    return found


def main() -> int:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pins = [Path(f"/sys/fs/bpf/pilus-bench-{os.getpid()}-{number}") for number in range(2)]
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="pilus-bench-") as name:
        folder = Path(name)
        try:
            with (
                ensure_loaded(pins[0], folder / "datapath.json", folder, {}) as datapath,
                baseline(pins[1], folder) as compared,
                TestRun(Node(datapath)) as harness,
            ):
                for family in (4, 6):
                    found = measure(harness, compared, family)
                    empty, lookup = found["nothing"], found["one_lookup"]
                    for what, cost in found.items():
                        print(json.dumps({"family": family, "what": what, "ns": cost, "times_empty": round(cost / empty, 2),
                                          "times_one_lookup": round(cost / lookup, 2)}))  # fmt: skip
                        if what != SLOW:
                            worst = max(worst, cost / lookup)
        finally:
            for one in pins:
                shutil.rmtree(one, ignore_errors=True)
    print(f"worst established packet: {worst:.2f} times one lookup; goal at most {GOAL}")
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
