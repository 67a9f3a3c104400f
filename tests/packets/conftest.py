"""The datapath, loaded once for all packet tests, and the two harnesses that play scenarios on it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests.packets.…`, also where pytest is not started with -m

from tests.loaded import loaded
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import Harness
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.wire import Wire

from pilus_maps import Datapath

# Small enough to be filled by a test; an LRU keeps some hundred entries a CPU back, so it must not be tiny.
CONFIG = {"PILUS_FLOWS_SIZE": 512, "PILUS_EMBRYONIC_SIZE": 8192}


@pytest.fixture(scope="session")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    with loaded("packets", tmp_path_factory.mktemp("datapath"), CONFIG) as made:
        yield made


@pytest.fixture(scope="module")
def testrun(datapath: Datapath) -> Iterator[TestRun]:
    with TestRun(Node(datapath)) as harness:
        yield harness


@pytest.fixture(scope="module")
def wire(datapath: Datapath) -> Iterator[Wire]:
    with Wire(Node(datapath)) as harness:
        yield harness


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture(params=["testrun", "wire"])
def harness(request: pytest.FixtureRequest) -> Harness:
    """Either harness, with this node's tables as a healthy agent writes them."""
    chosen: Harness = request.getfixturevalue(request.param)
    chosen.node.reset()
    return chosen
