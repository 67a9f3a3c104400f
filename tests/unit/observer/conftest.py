"""A datapath's description without a kernel: the words of bpf/abi.h, read by the loader itself, and flow tables of our own."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def _loader() -> Any:
    spec = importlib.util.spec_from_file_location("loader", ROOT / "nodeagent/pilus_agent/datapath/loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def description() -> dict[str, Any]:
    described = _loader().describe(ROOT / "bpf", Path("/nowhere"), {})[1]
    assert isinstance(described, dict)
    return described
