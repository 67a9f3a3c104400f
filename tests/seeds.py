"""Seeds of what is drawn: told at the end of a run, and kept in build/seeds with what came of it, for whoever wants the same again.

Whoever draws worlds calls `keep` in its conftest: runs are of one folder, or of several.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from hypothesis import core
from tests.soak import SOAK

SEEDS = Path(__file__).parents[1] / "build/seeds"


def keep(config: pytest.Config) -> None:
    """Once in a run."""
    if not config.pluginmanager.has_plugin(__name__):
        config.pluginmanager.register(sys.modules[__name__], __name__)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    seed = cast("int | None", core.global_force_seed)
    if seed is None:  # nothing was drawn
        return
    first, *others = config.args
    where = Path(first).name + (" and others" if others else "")
    told = f"{seed} {SOAK} worlds, exit status {int(exitstatus)}: {where}"
    terminalreporter.write_line(f"--hypothesis-seed={told}")
    SEEDS.parent.mkdir(exist_ok=True)
    with SEEDS.open("a") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {told}\n")
