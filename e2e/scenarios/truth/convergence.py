"""How long each change of policies or labels took until the answers were right, kept in a file for whoever asks later.

In: what a table found, change by change. Out: a list of JSON objects in the order of the changes. The file is written at once,
when all is over: who reads it finds a whole run, of which the tests that failed are not a part.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Converged:
    """`case`: the test; `change`: which of its steps. `seconds`: from the request to the first right answers; None where no answer
    changes, so that there was nothing to see."""

    case: str
    change: str
    denied: int  # questions
    asked: int
    seconds: float | None


def write(path: Path, changes: Sequence[Converged]) -> None:
    """In place of the last run's. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps([asdict(one) for one in changes], indent=1) + "\n")
    draft.replace(path)
