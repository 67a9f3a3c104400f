"""What the kernel says of eBPF: how long programs ran, how much memory maps take. And programs to compare with.

In: bpffs of a node. Out: nanoseconds and bytes. Counting run times is switched on by a descriptor, so that it ends with this
process whatever happens to it: no sysctl is written.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pilus_agent.datapath.programs import ensure_loaded
from pilus_maps import Datapath
from pilus_maps.syscall import enable_statistics, open_pin, program_info

ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    """Of programs, since they were loaded."""

    nanoseconds: int
    runs: int

    def since(self, before: "Ran") -> "Ran":
        return Ran(self.nanoseconds - before.nanoseconds, self.runs - before.runs)


@contextmanager
def counting_run_times() -> Iterator[None]:
    """What `kernel.bpf_stats_enabled` does, for as long as this lasts."""
    fd = enable_statistics()
    try:
        yield
    finally:
        os.close(fd)


def ran(fd: int) -> Ran:
    held = program_info(fd)
    return Ran(held["nanoseconds"], held["runs"])


class Pinned:
    """Every program and map that a node has pinned, seen from outside through one of its processes."""

    def __init__(self, process: int) -> None:
        folder = Path("/proc") / str(process) / "root/sys/fs/bpf/pilus"
        self.programs = {path.name: open_pin(str(path)) for path in sorted(folder.glob("programs/*/*"))}
        self.maps = {path.name.rpartition("-")[0]: open_pin(str(path)) for path in sorted(folder.glob("maps/*"))}
        calls = [name for name in self.programs if "-" in name]
        for name in calls:  # a program array lies beside its programs
            self.maps[name.rpartition("-")[0]] = self.programs.pop(name)

    def close(self) -> None:
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs.clear()
        self.maps.clear()

    def __enter__(self) -> "Pinned":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ran(self, *names: str) -> Ran:
        """Of these programs; of all without names."""
        held = [ran(fd) for name, fd in self.programs.items() if not names or name in names]
        return Ran(sum(one.nanoseconds for one in held), sum(one.runs for one in held))

    def bytes(self) -> dict[str, int]:
        """Map -> the kernel's memory for it now."""
        return {name: map_bytes(fd) for name, fd in self.maps.items()}


def map_bytes(fd: int) -> int:
    found = re.search(r"^memlock:\s*(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), flags=re.MULTILINE)
    if found is None:
        raise ValueError("the kernel does not tell a map's memory")
    return int(found[1])


@contextmanager
def loaded(folder: Path) -> Iterator[Datapath]:
    """The programs and maps at their full sizes, in a folder of bpffs of their own."""
    pins = Path(f"/sys/fs/bpf/pilus-bench-own-{os.getpid()}")
    try:
        with ensure_loaded(pins, folder / "datapath.json", folder, {}) as datapath:
            yield datapath
    finally:
        shutil.rmtree(pins, ignore_errors=True)


@contextmanager
def compared() -> Iterator[Datapath]:
    """The programs of baseline/baseline.c: `nothing`, `one_lookup`, `to_the_other` (bare redirect_peer)."""
    pins = Path(f"/sys/fs/bpf/pilus-bench-{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="pilus-bench-") as name:
        folder = Path(name)
        command = ["/usr/bin/python3", "-I", str(ROOT / "nodeagent/pilus_agent/datapath/loader.py"), "--source",
                   str(Path(__file__).with_name("baseline")),
                   "--pins", str(pins), "--description", str(folder / "baseline.json"), "--cache", str(folder)]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True)
            with Datapath.open(folder / "baseline.json") as datapath:
                yield datapath
        finally:
            shutil.rmtree(pins, ignore_errors=True)


def nothing_ns(datapath: Datapath, runs: int = 200_000) -> float:
    """What a run of an empty program reads as, while run times are counted."""
    program = datapath.program("nothing")
    before = ran(program.fd)
    program.test_run(bytes(64), repeat=runs)
    done = ran(program.fd).since(before)
    return done.nanoseconds / done.runs
