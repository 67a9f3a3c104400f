"""Seeds of what is drawn: told at the end of a run, and kept in build/seeds with what came of it, to draw the same again."""

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from hypothesis import core
from tests.soak import SOAK

SEEDS = Path(__file__).parents[1] / "build/seeds"


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
