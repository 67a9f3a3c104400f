"""Network namespaces that live as long as a descriptor is open: nothing is named, so nothing can be left behind."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def fresh() -> int:
    """A new namespace's descriptor; this thread stays where it is."""
    before = own()
    try:
        _checked(_libc.unshare(_CLONE_NEWNET))
        try:
            return own()
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread in that namespace. What is opened inside stays there."""
    before = own()
    try:
        _checked(_libc.setns(namespace, _CLONE_NEWNET))
        try:
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


def empty(namespace: int) -> None:
    """Its links go, at once: a namespace that is closed lives on for a while, and what its stacks send meanwhile is counted."""
    with inside(namespace), IPRoute() as ip:
        for link in ip.get_links():
            if link["index"] != 1:
                with suppress(NetlinkError):  # the other end of one that has gone
                    ip.link("del", index=link["index"])


def sysctl(name: str, value: str) -> None:
    """Of the namespace this thread is in."""
    path = Path("/proc/sys/net") / name
    if path.exists():
        path.write_text(value)
