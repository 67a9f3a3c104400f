"""One group, in a process of its own: `python -m bench.child GROUP FILE [--quick]`.

Writes each figure as a line of JSON as soon as it is known.
"""

import argparse
import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.bench import Bench
from bench.figure import Figure
from bench.groups import GROUPS


def figures(group: str, bench: Bench) -> Iterator[Figure]:
    module = importlib.import_module(f"bench.{group}")
    found: Iterator[Figure] = module.measure(bench)
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=list(GROUPS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    wanted = parser.parse_args()
    # So that what was brought up is taken down on a polite end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="pilus-bench-") as folder, wanted.out.open("a") as out:
        for figure in figures(wanted.group, Bench(wanted.quick, Path(folder))):
            print(json.dumps(figure.record(wanted.group)), file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
