"""Everything of Pilus on a node, known by its mark, and taken away: only for the removal of Pilus.

In: the node's root folder (another one than / in a container that has it mounted), this network namespace. Out: what there is, in
words; and nothing of it any more. What bears no mark of ours is never touched. Blocks.

| what | its mark |
|---|---|
| links | names `plx…` with the alias `pilus:…`, and `pilus_…`; routes, neighbours, filters and sysctls of a link go with it |
| filters on other links | priority 20, handle 1, the name `uplink_…` |
| clsact on other links, reserved ports | written down in changes.json before they were changed |
| routes on other links | protocol 214 |
| programs, maps, socket links | pinned below /sys/fs/bpf/pilus |
| files | /run/pilus, /var/lib/pilus, the plugin and its configuration, the unit pilus-early.service |
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pilus_agent import cni_install
from pilus_agent.datapath import changes, ports
from pilus_agent.datapath.links import ALIAS, POD_LINKS, ROUTE_PROTOCOL
from pilus_agent.datapath.node import UPLINK_PRIORITY
from pilus_api.errors import PilusError

PINS: Final = "sys/fs/bpf/pilus"
RUNTIME: Final = "run/pilus"
STATE: Final = "var/lib/pilus"
# What `pilus install --early` writes beside that.
UNIT_FILES: Final = (
    "etc/systemd/system/multi-user.target.wants/pilus-early.service",
    "etc/systemd/system/pilus-early.service",
)
_SIDES: Final = (("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3))
_MAIN: Final = 254


@dataclass(frozen=True, slots=True)
class Filter:
    ifindex: int
    link: str
    parent: int
    name: str


class Removal:
    """`root`: where the node's file system is. A context manager."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._ip = IPRoute()
        self._sysctls = (root / "proc/sys") if root != Path("/") else changes.sysctls()

    def __enter__(self) -> "Removal":
        return self

    def __exit__(self, *_: object) -> None:
        self._ip.close()

    # -- looking -------------------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """Which of our processes answer on this node: what we took away, they would make again."""
        found = []
        with socket.socket(socket.AF_UNIX) as asked, suppress(OSError):
            asked.connect(str(self._root / RUNTIME / "agent.sock"))
            found.append("the agent")
        with suppress(OSError):
            held = os.open(self._root / RUNTIME / ".observer.sock.lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append("the observer")
            finally:
                os.close(held)
        return found

    def found(self) -> list[str]:
        """Everything of ours that is there, a line each."""
        return [
            *(f"link {name}" for _, name in self._links()),
            *(f"filter {one.name} on {one.link}" for one in self._filters()),
            *(f"clsact on {name}" for _, name in self._bare_clsact()),
            *(f"route to {text} on link {index}" for text, index, _ in self._routes()),
            *(f"reserved ports {text}" for text in self._reserved()),
            *(str(Path("/") / path.relative_to(self._root)) for path in self._paths()),
        ]

    def _links(self) -> list[tuple[int, str]]:
        found = []
        for link in self._ip.get_links():
            name, alias = str(link.get("IFLA_IFNAME")), str(link.get("IFLA_IFALIAS") or "")
            if name.startswith("pilus_") or (name.startswith(POD_LINKS) and alias.startswith(ALIAS)):
                found.append((int(link["index"]), name))
        return found

    def _others(self) -> list[tuple[int, str]]:
        ours = set(self._links())
        held = [(int(link["index"]), str(link.get("IFLA_IFNAME"))) for link in self._ip.get_links()]
        return [one for one in held if one not in ours]

    def _filters(self) -> list[Filter]:
        """Ours on other people's links."""
        found = []
        for index, link in self._others():
            for _, parent in _SIDES:
                for one in self._held_filters(index, parent):
                    options = one.get("TCA_OPTIONS")
                    name = str(options.get("TCA_BPF_NAME") or "") if options else ""
                    if one["handle"] == 1 and one["info"] >> 16 == UPLINK_PRIORITY and name.startswith("uplink_"):
                        found.append(Filter(index, link, parent, name))
        return found

    def _held_filters(self, index: int, parent: int) -> list[Any]:
        try:
            return list(self._ip.get_filters(index=index, parent=parent))
        except NetlinkError:
            return []

    def _bare_clsact(self) -> list[tuple[int, str]]:
        """Links that have a clsact from us, and nobody else's filter on it."""
        noted = self._changes().clsact
        ours = {(one.ifindex, one.parent) for one in self._filters()}
        found = []
        for index, name in self._others():
            if name not in noted or not any(one.get("TCA_KIND") == "clsact" for one in self._ip.get_qdiscs(index=index)):
                continue
            if all((index, parent) in ours or not self._held_filters(index, parent) for _, parent in _SIDES):
                found.append((index, name))
        return found

    def _routes(self) -> list[tuple[str, int, int]]:
        """Ours on other people's links: text, link, family."""
        ours = {index for index, _ in self._links()}
        return [
            (f"{route.get('RTA_DST')}/{route['dst_len']}", int(route.get("RTA_OIF") or 0), family)
            for family in (socket.AF_INET, socket.AF_INET6)
            for route in self._ip.get_routes(family=family, table=_MAIN)
            if route["proto"] == ROUTE_PROTOCOL and route.get("RTA_OIF") not in ours
        ]

    def _changes(self) -> changes.Changes:
        return changes.read(self._root / STATE / changes.NAME)

    def _reserved(self) -> list[str]:
        """The ports that we keep from the host, if we still do."""
        held = self._changes()
        if held.reserved_before is None:
            return []
        now = (self._sysctls / ports.RESERVED).read_text().strip()
        return held.reserved if ports.restored(now, held.reserved_before, held.reserved) != now else []

    def _paths(self) -> Iterator[Path]:
        plugin, configuration = (self._root / str(folder).lstrip("/") for folder in (cni_install.BIN_DIR, cni_install.CONF_DIR))
        places = [configuration / cni_install.CONFIGURATION, plugin / cni_install.PLUGIN]
        places += [self._root / path for path in UNIT_FILES]
        places += [place.with_name(f".{place.name}.draft") for place in places]
        places += [self._root / folder for folder in (PINS, RUNTIME, STATE)]
        return (place for place in places if place.is_symlink() or place.exists())

    # -- taking away ---------------------------------------------------------------------------------------------------------

    def remove(self) -> list[str]:
        """Everything; returns what there was. Raises PilusError, and can be called again."""
        there = self.found()
        try:
            # No pod is to be started any more, before what it would need goes. changes.json goes last: it says what to put back.
            for path in list(self._paths()):
                if not path.is_dir():
                    path.unlink()
            for index, parent in ((one.ifindex, one.parent) for one in self._filters()):
                self._ip.tc("del-filter", "bpf", index, parent=parent, prio=UPLINK_PRIORITY, handle=1)
            for index, _ in self._bare_clsact():
                self._ip.tc("del", "clsact", index)
            for text, index, family in self._routes():
                self._ip.route("del", dst=text, oif=index, family=family, proto=ROUTE_PROTOCOL)
            for _, name in self._links():
                if index := next(iter(self._ip.link_lookup(ifname=name)), 0):  # the other end went with the first
                    self._ip.link("del", index=index)
            self._give_back_ports()
            for folder in (PINS, RUNTIME, STATE):
                if (self._root / folder).exists():
                    shutil.rmtree(self._root / folder)
        except (OSError, NetlinkError) as error:
            raise PilusError(f"not everything could be removed: {error}. Run it again") from error
        return there

    def _give_back_ports(self) -> None:
        if not self._reserved():
            return
        held = self._changes()
        sysctl = self._sysctls / ports.RESERVED
        # An empty write would change nothing; a line alone empties it.
        sysctl.write_text(ports.restored(sysctl.read_text().strip(), held.reserved_before or "", held.reserved) + "\n")
