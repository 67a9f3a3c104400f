"""The programs, loaded for a test into a folder of its own on bpffs, which goes with it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilus_agent.datapath.programs import ensure_loaded
from pilus_maps import Datapath


@contextmanager
def loaded(name: str, folder: Path, config: Mapping[str, int]) -> Iterator[Datapath]:
    """`name` tells the folders of one process apart; `folder` holds the description and the kernel's types."""
    if os.geteuid():
        pytest.skip("needs root")
    pins = Path(f"/sys/fs/bpf/pilus-{name}-{os.getpid()}")
    try:
        with ensure_loaded(pins, folder / "datapath.json", folder, config) as datapath:
            yield datapath
    finally:
        shutil.rmtree(pins, ignore_errors=True)
