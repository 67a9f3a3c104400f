"""What the truth tables tell of each change of policies, without a lab: a table that answers late, and the file that is left."""

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import pytest
from e2e.scenarios.truth import convergence, world
from e2e.scenarios.truth.ask import Ask
from e2e.scenarios.truth.case import nothing
from e2e.scenarios.truth.world import World

ASKS = [Ask("x/a", to, port, "TCP", 4) for to in ("x/b", "y/a") for port in (80, 81)]


class Late:
    """A table whose answers are right after it has been asked some times."""

    def __init__(self) -> None:
        self.asked = 0.0
        self.wanted: set[Ask] = set(ASKS)
        self.rounds = 0

    def reached(self, asks: Collection[Ask], *_: object, **__: object) -> set[Ask]:
        self.asked = time.monotonic()
        self.rounds -= 1
        return set(asks) & (self.wanted if self.rounds < 0 else set(ASKS))


@pytest.fixture
def late() -> Late:
    return Late()


@pytest.fixture
def made(late: Late) -> World:
    return World(cast("Any", None), cast("Any", None), cast("Any", late), {}, asks=ASKS)


def test_each_change_is_kept_in_order(made: World, late: Late, tmp_path: Path) -> None:
    made.opened()
    made.case = "of ports"
    late.wanted, late.rounds = {ask for ask in ASKS if ask.port == 80}, 3
    requested = time.monotonic() - 0.5
    made.becomes(lambda ask: ask.port == 81, requested, "denied")
    late.wanted = set(ASKS)
    made.becomes(nothing, time.monotonic(), "open again")
    made.becomes(nothing, time.monotonic(), "as it was")
    path = tmp_path / "build" / "convergence.json"
    convergence.write(path, made.changes)
    told = json.loads(path.read_text())
    assert [(one["case"], one["change"], one["denied"], one["asked"]) for one in told] == [
        ("before any test", "all open", 0, 4),
        ("of ports", "denied", 2, 4),
        ("of ports", "open again", 0, 4),
        ("of ports", "as it was", 0, 4),
    ]
    assert 0.5 <= told[1]["seconds"] < world.LIMIT
    assert told[3]["seconds"] is None  # no answer was another one
    assert made.summary().startswith("3 changes of the table")
    assert [file.name for file in path.parent.iterdir()] == ["convergence.json"]


def test_what_never_becomes_right_is_none(made: World, late: Late, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is whole all the same."""
    monkeypatch.setattr(world, "LIMIT", 0.01)
    made.opened()
    with pytest.raises(AssertionError, match="reached, and should not be: 2"):
        made.becomes(lambda ask: ask.port == 81, time.monotonic(), "denied")
    convergence.write(tmp_path / "convergence.json", made.changes)
    assert [one["change"] for one in json.loads((tmp_path / "convergence.json").read_text())] == ["all open"]


def test_without_a_change_there_is_a_summary() -> None:
    assert "no change" in World(cast("Any", None), cast("Any", None), cast("Any", Late()), {}, asks=ASKS).summary()
