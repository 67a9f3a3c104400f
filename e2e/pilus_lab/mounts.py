"""mount(2), as far as the lab needs it.

In: what, where, how. Out: a mount in the caller's mount namespace. Raises OSError with the mount point's name.
"""

import ctypes
import os

_FLAGS = {"bind": 4096, "rprivate": (1 << 18) | 16384, "rshared": (1 << 20) | 16384}
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, how: str = "", options: str = "") -> None:
    """Mount ``source`` of file system ``kind`` on ``target``; ``how`` is bind, rprivate, rshared or nothing."""
    flags = _FLAGS[how] if how else 0
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode() or None)
    if _libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
