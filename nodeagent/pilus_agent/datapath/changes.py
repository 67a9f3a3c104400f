"""What the agent has changed of a node that is not its own, written down before it is changed: so that `pilus uninstall` can put
back what was there.

In: a file. Out: the same file, written whole or not at all. It counts for one boot of the machine: what it tells of goes with it.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
NAME: Final = "changes.json"


def sysctls() -> Path:
    """Where sysctls are written. In a container without all rights /proc/sys is read-only, and the node's is mounted elsewhere."""
    return Path(os.environ.get("PILUS_PROC_SYS") or "/proc/sys")


def boot() -> str:
    return _BOOT.read_text().strip()


@dataclass(slots=True)
class Changes:
    """`reserved_before`: net.ipv4.ip_local_reserved_ports as it was, None if we never wrote it; `reserved`: the ranges that we put
    there. `clsact`: other people's links that had no clsact before us."""

    boot: str
    reserved_before: str | None = None
    reserved: list[str] = field(default_factory=list)
    clsact: list[str] = field(default_factory=list)


def read(path: Path) -> Changes:
    """What was written in this boot; nothing if that is nothing, or broken."""
    try:
        held = Changes(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Changes(boot())
    return held if held.boot == boot() else Changes(boot())


class Ledger:
    """The file's writer. Without a path nothing is kept: for tests, and for a node that nobody will uninstall."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def ports(self, before: str, ours: str) -> None:
        held = self._read()
        if held.reserved_before is None:
            held.reserved_before = before
        if ours not in held.reserved:
            held.reserved.append(ours)
        self._write(held)

    def clsact(self, link: str) -> None:
        held = self._read()
        if link not in held.clsact:
            held.clsact.append(link)
        self._write(held)

    def _read(self) -> Changes:
        return read(self._path) if self._path else Changes(boot())

    def _write(self, held: Changes) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(held)))
        scratch.replace(self._path)
