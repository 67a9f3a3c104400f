"""The programs: loaded if they are not there yet, and measured against their limits.

In: a folder on bpffs, where the description goes, a cache, a configuration. Out: an open Datapath, or a PilusError with the one
line that the loader said. The loader is a process of its own (docs/engine.md): this module never sees a compiler.

``python -m pilus_agent.datapath.programs --report`` loads the sources into a folder of its own, prints what each program costs,
and ends with status 1 if one is above its limit.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilus_api.errors import PilusError
from pilus_maps import Datapath

_PYTHON: Final = "/usr/bin/python3"  # the distribution's: bcc lives there
_LOADER: Final = Path(__file__).with_name("loader.py")
_BPFFS: Final = Path("/sys/fs/bpf")

# Instructions as the kernel runs them (after its rewriting), and how many its verifier looked at.
_ENTRY_INSTRUCTIONS: Final = 800
_TAIL_INSTRUCTIONS: Final = 4096
_HOT_TAILS: Final = frozenset({"overlay_body"})  # a tail call by form; every packet out of the tunnel runs it
_VERIFIED: Final = 100_000  # of the kernel's million
_STACK: Final = 448  # of 512: a tail call's caller must leave 256, and a change must have room


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program costs. `stack` is the deepest byte of the frame that an instruction names."""

    name: str
    entry: bool
    instructions: int
    verified: int
    stack: int

    @property
    def limit(self) -> int:
        return _ENTRY_INSTRUCTIONS if self.entry else _TAIL_INSTRUCTIONS

    @property
    def complaints(self) -> list[str]:
        found = []
        if self.instructions > self.limit:
            found.append(f"{self.instructions} instructions, at most {self.limit}")
        if self.verified > _VERIFIED:
            found.append(f"{self.verified} instructions looked at by the verifier, at most {_VERIFIED}")
        if self.stack > _STACK:
            found.append(f"{self.stack} bytes of stack, at most {_STACK}")
        return found


def sources() -> Path:
    """The C sources: installed beside this package, or the checkout's. Raises PilusError."""
    for folder in (Path(__file__).with_name("bpf"), Path(__file__).parents[3] / "bpf"):
        if (folder / "abi.h").exists():
            return folder
    raise PilusError("the eBPF sources are not installed: reinstall Pilus")


def ensure_loaded(pins: Path, description: Path, cache: Path, config: Mapping[str, int]) -> Datapath:
    """Programs and maps pinned under `pins`, compiled only if sources, kernel or configuration have changed. Blocks (2 s)."""
    command = [_PYTHON, "-I", str(_LOADER), "--source", str(sources()), "--pins", str(pins), "--description", str(description),
               "--cache", str(cache), "--config", json.dumps(dict(config), sort_keys=True)]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PilusError(f"can't start the loader: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("loader: ")]
        raise PilusError(said[-1] if said else f"the loader ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return Datapath.open(description)


def prune(datapath: Datapath, attached: Set[str]) -> list[str]:
    """Unpin what no load needs any more: programs of other loads, but those in `attached` (their hashes), and maps of layouts that
    neither this load nor one of those has. Which went. For when everything has been attached anew: a program array that is
    unpinned while a filter still needs it would be empty. Blocks."""
    root = Path(next(iter(datapath.description["programs"].values()))["pin"]).parents[2]
    others = {folder.name for folder in _entries(root / "programs")} - {datapath.hash}
    gone = [root / "programs" / name for name in sorted(others - attached)]
    for folder in gone:
        shutil.rmtree(folder)
    if not others & attached:  # else their maps are not known here
        wanted = {held["pin"] for held in datapath.description["maps"].values()}
        old = [pin for pin in _entries(root / "maps") if str(pin) not in wanted]
        for pin in old:
            pin.unlink()
        gone += old
    return [str(path.relative_to(root)) for path in gone]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def stack_of(instructions: bytes) -> int:
    """The deepest offset below the frame pointer (r10) that is accessed, or that a pointer is made to."""
    deepest = 0
    from_frame: set[int] = set()  # registers that hold r10 itself, until something is added
    for code, registers, offset, immediate in struct.iter_unpack("=BBhi", instructions):
        destination, source = registers & 15, registers >> 4
        kind = code & 7
        if (kind == 1 and source == 10) or (kind in (2, 3) and destination == 10):
            deepest = max(deepest, -offset)
        if code == 0xBF and source == 10:
            from_frame.add(destination)
        elif code == 0x07 and destination in from_frame:
            deepest = max(deepest, -immediate)
            from_frame.discard(destination)
        elif kind in (0, 1, 4, 7):
            from_frame.discard(destination)
    return deepest


def measure(datapath: Datapath) -> list[Cost]:
    """Every program that is loaded."""
    costs = []
    for name in datapath.programs:
        program = datapath.program(name)
        info = program.info()
        entry = name in datapath.description["programs"] or name in _HOT_TAILS
        costs.append(Cost(name, entry, info["instructions"], info["verified"], stack_of(program.instructions())))
    return costs


def report() -> int:
    """Print what every program costs; 1 if one is above a limit."""
    pins = _BPFFS / f"pilus-report-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="pilus-report-") as folder:
        try:
            with ensure_loaded(pins, Path(folder) / "datapath.json", Path(folder), {}) as datapath:
                costs = measure(datapath)
        finally:
            shutil.rmtree(pins, ignore_errors=True)
    print(f"{'program':<20} {'kind':<6} {'instructions':>12} {'limit':>6} {'verified':>9} {'limit':>7} {'stack':>6} {'limit':>6}")
    for cost in sorted(costs, key=lambda one: (not one.entry, one.name)):
        kind = "entry" if cost.entry else "tail"
        print(f"{cost.name:<20} {kind:<6} {cost.instructions:>12} {cost.limit:>6} {cost.verified:>9} {_VERIFIED:>7} "
              f"{cost.stack:>6} {_STACK:>6}")  # fmt: skip
    complaints = [f"{cost.name}: {text}" for cost in costs for text in cost.complaints]
    for line in complaints:
        print(line, file=sys.stderr)
    return 1 if complaints else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", action="store_true", required=True, help="print what every program costs; 1 above a limit")
    parser.parse_args()
    try:
        return report()
    except PilusError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
