"""Runs in a node: what an established packet of its costs, by BPF_PROG_TEST_RUN on the programs and tables in use.

`python -m bench.inside LINK SOURCE PORT DESTINATION PORT`: for each line on stdin test runs for that many seconds, and prints ns a
packet (the mean) as one line of JSON, with how often the connection was decided anew. The frame is one of a connection that stands.

A test run's frame bears a delivery's MACs from its second run on, with which the slow path refuses it: where a generation moves
within a batch, the batch counts as a decision anew and not for the mean, and the next packet's decision has to be good.
"""

import json
import os
import sys
import time

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from bench.traffic import measured_cpu
from pilus_maps import Datapath
from pilus_maps.datapath import Program

_HOPS = 250
_REDIRECT = 7  # TC_ACT_REDIRECT


def main() -> int:
    link, source, source_port, destination, port = sys.argv[1:6]
    index = int(link)
    os.sched_setaffinity(0, {measured_cpu()})
    with Datapath.open() as datapath:
        key = {"family": 0, "address": index.to_bytes(4, sys.byteorder).ljust(16, b"\0")}
        endpoint = datapath.map("endpoints").lookup(key)
        frame = bytes(
            Ether(src=endpoint["mac"].hex(":"), dst=endpoint["gateway_mac"].hex(":")) / IP(src=source, dst=destination, ttl=255)
            / TCP(sport=int(source_port), dport=int(port), flags="A", seq=1, ack=1) / b"x"
        )  # fmt: skip
        program = datapath.program("pod_from")
        print("{}", flush=True)
        for line in sys.stdin:
            print(json.dumps(batches(program, frame, index, float(line))), flush=True)
    return 0


def batches(program: Program, frame: bytes, index: int, seconds: float) -> dict[str, float]:
    end = time.monotonic() + seconds
    total = runs = anew = 0
    verdict = _REDIRECT
    while time.monotonic() < end and verdict == _REDIRECT:
        verdict, _, taken = program.test_run(frame, ifindex=index, repeat=_HOPS)
        if verdict == _REDIRECT:
            total += taken
            runs += 1
        else:
            anew += 1
            verdict = program.test_run(frame, ifindex=index)[0]
    return {"ns": total / max(runs, 1), "anew": anew, "verdict": verdict}


if __name__ == "__main__":
    sys.exit(main())
