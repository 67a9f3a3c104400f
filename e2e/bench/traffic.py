"""Clients and servers: traffic.c, compiled here, started where they belong.

In: a place (a network namespace, and the cgroups of the node it is on). Out: what a client says. A process of a lab's node
is born in that node's cgroups: Services are translated by its cgroup's programs, and it ends with the lab at the latest.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pilus_lab import cgroups

PORT = 7000
ROUNDS, CONNECTIONS, SINK, MANY = 0, 1, 2, 3  # what a server does at PORT plus this


class TrafficError(RuntimeError):
    """A client could not do what it was told."""


def measured_cpu() -> int:
    """The CPU of clients and servers: the last. Everything else is kept on the others."""
    return max(os.sched_getaffinity(1))


def other_cpus() -> set[int]:
    """All but the measured one, or that one if there is no other."""
    return os.sched_getaffinity(1) - {measured_cpu()} or {measured_cpu()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: a descriptor of a network namespace, and folders of cgroups to be born in."""

    namespace: int
    folders: tuple[str, ...] = ()
    below: str = ""

    def enter(self) -> None:
        if self.folders:
            cgroups.join(self.folders, self.below)


def compile_program(folder: Path) -> Path:
    """Compile traffic.c into `folder`. Raises TrafficError with what the compiler said."""
    program = folder / "traffic"
    done = subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(Path(__file__).with_name("traffic.c"))],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise TrafficError(f"traffic.c does not compile: {done.stderr.strip()}")
    return program


class Traffic:
    """Starts clients and servers; ends what still runs when it is left."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            end(process)
        self._running.clear()

    def start(self, place: Place, *words: object, cpu: int | None = None) -> "subprocess.Popen[str]":
        """A process that goes on by itself."""
        process = subprocess.Popen(
            [str(self._program), str(measured_cpu() if cpu is None else cpu), f"/proc/self/fd/{place.namespace}",
             *(str(word) for word in words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=(place.namespace,),
            preexec_fn=place.enter,  # noqa: PLW1509  # writes files, takes no lock
        )  # fmt: skip
        self._running.append(process)
        return process

    def serve(self, place: Place) -> None:
        self.start(place, "serve", PORT)

    def run(self, place: Place, mode: str, address: str, kind: int, seconds: float, *more: object, cpu: int | None = None) -> Any:
        """A client's answer. Raises TrafficError if it failed."""
        return self.finish(self.start(place, mode, address, PORT + kind, seconds, *more, cpu=cpu), seconds)

    def finish(self, process: "subprocess.Popen[str]", seconds: float = 0.0) -> Any:
        """Wait for a client's last line. Raises TrafficError."""
        try:
            out, error = process.communicate(timeout=seconds + 30)
        except subprocess.TimeoutExpired:
            end(process)
            raise TrafficError(f"no end of {_words(process.args)}") from None
        self._running.remove(process)
        if process.returncode or not out.strip():
            raise TrafficError(f"{_words(process.args)}: {error.strip() or f'status {process.returncode}'}")
        return json.loads(out.strip().splitlines()[-1])

    @contextmanager
    def beside(self, place: Place, *words: object, cpu: int | None = None) -> "Iterator[subprocess.Popen[str]]":
        """One that runs meanwhile, and is ended at the end."""
        process = self.start(place, *words, cpu=cpu)
        try:
            yield process
        finally:
            end(process)
            self._running.remove(process)


def line(process: "subprocess.Popen[str]") -> Any:
    """The next line that a running client says. Raises TrafficError if it ended instead."""
    held = process.stdout.readline() if process.stdout else ""
    if not held:
        raise TrafficError(f"{_words(process.args)}: {process.stderr.read().strip() if process.stderr else ''}")
    return json.loads(held)


def end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    streams: Sequence[IO[str] | None] = (process.stdin, process.stdout, process.stderr)
    for stream in streams:
        if stream is not None:
            stream.close()


def _words(arguments: object) -> str:
    return " ".join(str(word) for word in arguments[1:]) if isinstance(arguments, list) else str(arguments)
