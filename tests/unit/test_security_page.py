"""docs/security.md promises tests: each that it names exists, and each row that is ours has one that bears its name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.compile(r"`((?:tests|e2e)/[\w/]+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \|[^|]*\|([^|]*)\|$", re.MULTILINE)
ROWS = {int(number): (hole.strip(), tests) for number, hole, tests in ROW.findall(PAGE)}
OURS = {1, 2, 3, 6, 7, 13, 14, 15, 33, 34}
KEPT = "others' task"


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(PAGE)}))
def test_every_test_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()
    wanted = {name for where, name in NAMED.findall(PAGE) if where == path}
    assert wanted - functions(ROOT / path) == set()


def test_every_row_is_there_and_names_a_test_or_whose_it_is() -> None:
    assert {*OURS, 4, 5, 8, 10, 41, 42} <= ROWS.keys()
    for number, (hole, tests) in ROWS.items():
        assert NAMED.search(tests) or (tests.strip() == KEPT and number not in OURS), f"row {number}, {hole}"


@pytest.mark.parametrize("number", sorted(OURS))
def test_a_row_of_ours_has_a_test_that_bears_its_name(number: int) -> None:
    hole, tests = ROWS[number]
    word = hole.lower().replace("-", "_")
    assert any(word in name for _, name in NAMED.findall(tests)), f"no test of {hole} is called after it"


def test_an_attack_without_a_test_is_no_row() -> None:
    attacks = PAGE.partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line for line in attacks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row)] == []
