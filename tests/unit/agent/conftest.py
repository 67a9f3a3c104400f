"""Makes `tests.unit.agent.…` importable; the loader's description, and what was logged."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.unit.agent.fakes import FakeDatapath, FakeKernel, described, quicken

settings.register_profile("agent", deadline=None)
settings.load_profile("agent")


@pytest.fixture
def datapath() -> FakeDatapath:
    return FakeDatapath(described())


@pytest.fixture
def kernel(datapath: FakeDatapath) -> FakeKernel:
    return FakeKernel(datapath)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """What was logged."""
    with capture_logs() as found:
        yield found  # type: ignore[misc]
