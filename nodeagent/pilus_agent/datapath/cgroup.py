"""The node's cgroup, and the socket programs on it.

In: the mounts of this process, programs by pin. Out: links, pinned beside the programs, so that they outlive the agent. Blocks:
call it in the driver's thread. Idempotent: a link that somebody took away, of an older load, or of a folder that is gone, is
made anew; asked again without need it costs 0.3 ms.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilus_api.errors import PilusError
from pilus_maps import Datapath, syscall

_MOUNTS: Final = Path("/proc/self/mountinfo")
_FIRST: Final = Path("/proc/1/cgroup")


class CgroupError(PilusError):
    """No services: the node's cgroup can't be had."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A cgroup2 mount. `above`: how many folders its root is above this process's cgroup namespace; negative: below it."""

    place: Path
    above: int


def _unescaped(text: str) -> str:
    """Spaces and the like are three octal digits in mountinfo."""
    return text.encode().decode("unicode_escape") if "\\" in text else text


def mounted(mountinfo: str) -> list[Mounted]:
    """Every cgroup2 mount, the widest first. (proc(5): root is field 4, place field 5, the type follows a lone dash.)"""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or after.split()[:1] != ["cgroup2"]:
            continue
        parts = [part for part in fields[3].split("/") if part]
        below = any(part != ".." for part in parts)
        found.append(Mounted(Path(_unescaped(fields[4])), -len(parts) if below else len(parts)))
    return sorted(found, key=lambda mount: (-mount.above, mount.place))


def _first_process(text: str) -> int | None:
    """How far above this namespace's root process 1 is; None if it has no cgroup2 line."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return sum(part == ".." for part in line[3:].split("/"))
    return None


def choose(mountinfo: str, first_process: str) -> Path:
    """The folder that every process of the node is in or below. Raises CgroupError.

    A container that has a cgroup namespace and a mount of its own sees its own folder as the root: programs would attach there,
    and no pod would ever meet them. So a mount that does not reach up to process 1 is refused.
    """
    mounts = [mount for mount in mounted(mountinfo) if mount.above >= 0]
    if not mounts:
        raise CgroupError(
            "no cgroup2 is mounted, so Services have no addresses here: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified on the "
            "node, and that folder into the agent's container"
        )
    widest = mounts[0]
    above = _first_process(first_process)
    if above is None:
        raise CgroupError(
            "process 1 is in no cgroup2 folder, so Services have no addresses here: is the kernel built with cgroups?"
        )
    if above > widest.above:
        raise CgroupError(
            f"{widest.place} is the agent's own container's cgroup, not the node's: mount the host's cgroup2 folder into the "
            "container, or run it without a cgroup namespace"
        )
    return widest.place


def node_folder(wanted: Path | None = None) -> Path:
    """The node's cgroup2 folder: the one given, or as `choose` finds it. Raises CgroupError."""
    folder = wanted or choose(_MOUNTS.read_text(), _FIRST.read_text())
    if not (folder / "cgroup.controllers").exists():
        raise CgroupError(f"{folder} is no cgroup2 folder, so Services have no addresses here")
    return folder


def links_folder(datapath: Datapath) -> Path:
    """Where the links are pinned: beside the programs of every load."""
    return Path(next(iter(datapath.description["programs"].values()))["pin"]).parents[2] / "links"


def attach(datapath: Datapath, folder: Path) -> list[str]:
    """Every socket program of this load on the folder; which had to be attached or replaced. Raises KernelError."""
    wanted = {name: held["attach"] for name, held in datapath.description["programs"].items() if held.get("attach")}
    links = links_folder(datapath)
    links.mkdir(parents=True, exist_ok=True)
    target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inode = os.fstat(target).st_ino  # which is the cgroup's id
        done = [name for name, place in wanted.items() if _ensure(datapath, name, place, links / name, target, inode)]
    finally:
        os.close(target)
    for stranger in links.iterdir():
        if stranger.name not in wanted:  # of a load that had more programs, or of one that ended while it replaced a link
            stranger.unlink()
    return done


def _ensure(datapath: Datapath, name: str, place: int, pin: Path, target: int, inode: int) -> bool:
    program = datapath.program(name)
    if pin.exists():
        link = syscall.open_pin(str(pin))
        try:
            info = syscall.link_info(link)
            if info["cgroup"] == inode and info["attach"] == place:
                if info["program"] == program.info()["id"]:
                    return False
                syscall.link_update(link, program.fd)
                return True
        finally:
            os.close(link)
    link = syscall.link_create(program.fd, target, place)
    try:
        scratch = pin.with_name(f"{pin.name}-new")
        scratch.unlink(missing_ok=True)
        syscall.pin(link, str(scratch))
        scratch.rename(pin)  # in place of one whose folder is another's: its last pin goes, and it is detached
    finally:
        os.close(link)
    return True


def detach(links: Path) -> list[str]:
    """Take every socket program off: only for the removal of Pilus. Which there were."""
    found = sorted(one.name for one in links.iterdir()) if links.is_dir() else []
    for name in found:
        (links / name).unlink(missing_ok=True)
    with suppress(OSError):
        links.rmdir()
    return found
