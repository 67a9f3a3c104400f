"""A cgroup of a test's own, below this process's: what is attached there meets nobody else's sockets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pilus_agent.datapath import cgroup


def _own_folder(root: Path) -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return root / next(line[3:] for line in lines if line.startswith("0::")).strip("/")


@contextmanager
def inside(name: str) -> Iterator[Path]:
    """This process in a folder of its own: a socket belongs to the cgroup of the process that made it."""
    own = _own_folder(cgroup.node_folder())
    folder = own / name
    folder.mkdir()
    try:
        (folder / "cgroup.procs").write_text("0")
        yield folder
    finally:
        (own / "cgroup.procs").write_text("0")
        deadline = time.monotonic() + 5
        while folder.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                folder.rmdir()
            time.sleep(0.01)
