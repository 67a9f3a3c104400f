"""How an agent's process begins: what it imports is built late, and kept out of the collector's sight; a mistake in what it is
told is its end."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pilus_agent.main import main


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


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("label-prefix-file: /nowhere/labels.json", "label-prefix-file: /nowhere/labels.json: "),
        ("labels: 'k8s:('", "labels: '(' is not a regular expression"),
    ],
)
def test_labels_that_can_not_be_read_are_its_end_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, said: str, source: bool
) -> None:
    def begun(work: Any) -> None:
        work.close()
        raise AssertionError("it has begun")

    monkeypatch.setattr(asyncio, "run", begun)
    config = tmp_path / "settings.yaml"
    config.write_text(settings)
    done = CliRunner().invoke(main, ["--node-name=n1", f"--config={config}", *([f"--source-dir={tmp_path}"] if source else [])])
    assert done.exit_code == 1
    assert done.output.startswith(f"pilus-agent: {said}")
