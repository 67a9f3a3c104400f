"""`python -m bench`: every group in turn, each in a process of its own; a table, build/bench.json, build/bench.svg.

In: which groups, how thorough. Out: what was found, also where a group failed. Ends with status 1 if one did; a missed goal is a
figure, not a failure. Leaves no lab behind.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import clusters, docs, machine, plot, report
from bench.groups import GROUPS
from bench.kernel import ROOT

BUILD = ROOT / "build"
_GRACE = 60.0  # s that a group has to take down what it brought up
_WHOLE = 40 * 60.0  # s for all groups


def run(group: str, quick: bool, out: Path, left: float) -> str:
    """Why the group did not come to its end, "" if it did. What it found stands in `out`.

    `left`: seconds that there are for it at most.
    """
    limit = min(GROUPS[group].quick if quick else GROUPS[group].full, left)
    if limit <= 0:
        return f"no time is left of {_WHOLE / 60:.0f} minutes"
    command = [sys.executable, "-m", "bench.child", group, str(out), *(["--quick"] if quick else [])]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}/e2e:{ROOT}"})
    try:
        status = process.wait(limit)
        return f"ended with status {status}" if status else ""
    except subprocess.TimeoutExpired:
        return f"not done within {limit:.0f} s"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        clusters.remove_all()


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def measure(groups: Sequence[str], quick: bool, out: Path, failed: dict[str, str]) -> None:
    """`failed` becomes group -> why it failed."""
    began = time.monotonic()
    for number, group in enumerate(groups, 1):
        print(f"[{number}/{len(groups)}] {group} ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
        if why := run(group, quick, out, began + _WHOLE - time.monotonic()):
            failed[group] = why
            print(f"    {group} FAILED: {why}", file=sys.stderr, flush=True)
    print(f"done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def conclude(out: Path, about: Mapping[str, str], failed: Mapping[str, str], into_docs: bool) -> None:
    """Table, build/bench.json and plot of all that was found."""
    found = records(out)
    (BUILD / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (BUILD / "bench-machine.json").write_text(json.dumps({"machine": about, "failed": failed}, indent=1) + "\n")
    if found:
        plot.draw(found, BUILD / "bench.svg")
        print(report.table(found))
    print(f"\n{report.summary(found, failed)}\nbuild/bench.json, build/bench.svg")
    if into_docs and found:
        docs.write(ROOT / "docs", report.markdown(found, about, failed), BUILD / "bench.svg")
        print("docs/figures.md, docs/figures.svg")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs, not to quote")
    parser.add_argument("--only", action="append", choices=list(GROUPS), metavar="GROUP",
                        help=f"this group alone; may be given again: {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--docs", action="store_true", help="copy table and plot into docs/")
    wanted = parser.parse_args()
    groups = wanted.only or list(GROUPS)
    BUILD.mkdir(exist_ok=True)
    out = BUILD / "bench.lines"
    out.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    about = machine.describe()
    failed: dict[str, str] = {}
    try:
        measure(groups, wanted.quick, out, failed)
    finally:  # also of a run that was interrupted
        conclude(out, about, failed, wanted.docs)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
