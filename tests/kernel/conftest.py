"""Who asks the maps of a module's datapath what becomes of packets."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests.kernel.…`, also where pytest is not started with -m

from tests.kernel.live import Prober

from pilus_maps import Datapath


@pytest.fixture(scope="module")
def prober(datapath: Datapath) -> Iterator[Prober]:
    made = Prober(datapath)
    yield made
    made.close()
