"""The cgroups of a lab: how its nodes' kubelets get a tree of their own, and how `down` finds every process.

In: the caller's own place in every hierarchy. Out: folders below it, one per lab, one per node in that. Whatever runs in a
lab was started inside its folder, so killing what the folder holds kills the lab, however far `up` had come.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
UNIFIED = "unified"
V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")


def folders_of(process: int | str = "self", hierarchies: Iterable[str] = (*V1, UNIFIED)) -> tuple[str, ...]:
    """Where a process is, in each of these hierarchies that is mounted. Raises OSError if it has ended."""
    own: dict[str, str] = {}
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller.removeprefix("name=") or UNIFIED] = path
    return tuple(
        str(ROOT / hierarchy / own[hierarchy].strip("/"))
        for hierarchy in hierarchies
        if hierarchy in own and (ROOT / hierarchy).is_dir()
    )


def folders_for(lab: str) -> tuple[str, ...]:
    """The folders that a lab of this name will have, below the caller's own in every hierarchy that is mounted."""
    return tuple(f"{folder}/pilus-lab-{lab}" for folder in folders_of())


def make(folders: Iterable[str], *below: str) -> None:
    """Make the folders, and one folder below each for every name given; what is there is left."""
    for folder in map(Path, folders):
        for made in (folder, *(folder / name for name in below)):
            made.mkdir(parents=True, exist_ok=True)
            if made.relative_to(ROOT).parts[0] == "cpuset":
                # A cpuset takes no process before it has CPUs and memory, and hands them down only if told to.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (made / name).write_text((made.parent / name).read_text())
                (made / "cgroup.clone_children").write_text("1")


def join(folders: Iterable[str], below: str = "") -> None:
    """Move the calling process; what it starts from then on is born there. Raises OSError if a folder is gone."""
    for folder in folders:
        (Path(folder) / below / "cgroup.procs").write_text("0")


def processes(folders: Iterable[str]) -> set[int]:
    """Every process in the folders or below them."""
    found: set[int] = set()
    for folder in folders:
        for place in _walk(Path(folder)):
            try:
                found.update(int(line) for line in (place / "cgroup.procs").read_text().split())
            except OSError:
                continue  # gone between the listing and the reading
    return found - {0}


def _walk(folder: Path) -> Iterator[Path]:
    """The folder and all below it, deepest first."""
    for path, _, _ in os.walk(folder, topdown=False):
        yield Path(path)


def end(folders: Iterable[str], limit: float = 30.0) -> list[str]:
    """Kill every process in the folders, then remove them. Returns what would not go within ``limit`` seconds."""
    folders = [folder for folder in folders if Path(folder).is_dir()]
    deadline = time.monotonic() + limit
    while alive := processes(folders):
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            return [f"process {process}" for process in sorted(alive)]
        time.sleep(0.02)
    left = folders
    while left and time.monotonic() < deadline:
        for folder in left:
            for place in _walk(Path(folder)):
                try:
                    place.rmdir()
                except OSError:
                    continue  # busy: the kernel lets go of a dead process's cgroup a little later
        left = [folder for folder in left if Path(folder).is_dir()]
        if left:
            time.sleep(0.02)
    return left
