"""The tables of policies that are refused and accepted, for the models and for the API server alike."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent


def _policy(case: dict[str, Any]) -> dict[str, Any]:
    """The object of a case."""
    kind = case.get("kind", "CiliumNetworkPolicy")
    held: dict[str, Any] = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": {"name": "case"}}
    if kind == "CiliumNetworkPolicy":
        held["metadata"]["namespace"] = "default"
    if "object" in case:
        held |= case["object"]
    else:
        held["spec"] = {"endpointSelector": {}} | case["spec"]
    if "repeat" in case:
        at: Any = held
        for name, index in re.findall(r"(\w+)|\[(\d+)\]", case["path"]):
            at = at[name or int(index)]
        at *= case["repeat"]
    return held


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for table in ("refused", "accepted"):
        if table in metafunc.fixturenames:
            cases = yaml.safe_load((FOLDER / f"{table}.yaml").read_text())
            metafunc.parametrize(table, [case | {"policy": _policy(case)} for case in cases], ids=[case["name"] for case in cases])
