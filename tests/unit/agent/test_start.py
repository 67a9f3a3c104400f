"""How an agent's process begins: what it imports is built late, and kept out of the collector's sight."""

import subprocess
import sys


def said(program: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_collector_works_again_and_leaves_imports_alone() -> None:
    enabled, frozen = said("import pilus_agent.start, gc; print(gc.isenabled(), gc.get_freeze_count())").split()
    assert enabled == "True"
    assert int(frozen) > 10_000


def test_policies_are_built_when_they_are_read_or_asked_for() -> None:
    program = """
import pilus_agent.start
from pilus_api import policies
from pilus_api.resources.ciliumnetworkpolicy import CiliumNetworkPolicy
print(CiliumNetworkPolicy.__pydantic_complete__)
policies.prepare()
print(CiliumNetworkPolicy.__pydantic_complete__)
"""
    assert said(program).split() == ["False", "True"]
