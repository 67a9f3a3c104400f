"""Work in a thread of its own, and in a network namespace of its own: namespaces end with the thread that is in them."""

import ctypes
import os
import threading
from collections.abc import Callable

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def in_own_thread(work: Callable[[], None], limit: float = 60.0) -> None:
    """Raises what the work raises; AssertionError if it is not done within `limit` seconds."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # is raised in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(limit)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def in_own_namespace(work: Callable[[], None], limit: float = 60.0) -> None:
    """The same, in a new network namespace."""

    def within() -> None:
        if _libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        work()

    in_own_thread(within, limit)
