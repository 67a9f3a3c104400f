"""50,000 pods heard of, as the operator hears of them, from an API server that has them: seconds, and memory.

In: bench.fake_api and bench.sync, each a process of its own. Out: seconds until in sync, and resident memory then.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.bench import Bench
from bench.figure import Figure, Samples, measured
from bench.kernel import ROOT
from bench.traffic import end, measured_cpu, other_cpus

PODS = 50_000
SECONDS_GOAL, MEMORY_GOAL = 30.0, 400.0  # s, MB


@contextmanager
def server(pods: int) -> Iterator[tuple[str, int]]:
    """Its URL, and how many bytes its pods have as JSON."""
    process = subprocess.Popen([sys.executable, "-m", "bench.fake_api", str(pods)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: os.sched_setaffinity(0, other_cpus()))  # fmt: skip  # noqa: PLW1509
    try:
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise RuntimeError("the API server with pods did not start")
        held = json.loads(said)
        yield f"http://127.0.0.1:{held['port']}", held["bytes"]
    finally:
        end(process)


def measure(bench: Bench) -> Iterator[Figure]:
    found = []
    with server(PODS) as (url, size):
        for number in range(bench.rounds(3, 1)):
            bench.say(f"{PODS:,} pods of {size / PODS / 1000:.1f} kB, {number + 1}")
            done = subprocess.run([sys.executable, "-m", "bench.sync", url], cwd=ROOT, capture_output=True, text=True, check=False,
                                  timeout=300, preexec_fn=lambda: os.sched_setaffinity(0, {measured_cpu()}))  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"hearing of pods failed: {done.stderr.strip()[-500:]}")
            found.append(json.loads(done.stdout))
            if found[-1]["pods"] != PODS:
                raise RuntimeError(f"{found[-1]['pods']} pods heard of")
    note = f"{size / PODS / 1000:.1f} kB of JSON a pod, 100 namespaces, 250 sets of labels"
    yield measured(f"{PODS:,} pods in sync", "s", Samples.of(one["seconds"] for one in found), goal=SECONDS_GOAL, judged="value",
                   note=note)  # fmt: skip
    yield measured(f"{PODS:,} pods in sync, resident", "MB", Samples.of(one["resident"] / 1024 for one in found), goal=MEMORY_GOAL,
                   judged="value", note=f"at most {max(one['most'] for one in found) / 1024:.0f} MB meanwhile")  # fmt: skip
