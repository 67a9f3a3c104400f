"""docs/security.md promises tests: each that it names exists, and each hole has one that bears its name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.compile(r"`((?:tests|e2e)/[\w/]+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \|[^|]*\|([^|]*)\|$", re.MULTILINE)
ROWS = {int(number): (hole.strip(), tests) for number, hole, tests in ROW.findall(PAGE)}
# Of the published list, those that concern what is built.
CONCERNING = {1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 33, 34, 41, 42}


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(PAGE)}))
def test_every_test_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()
    wanted = {name for where, name in NAMED.findall(PAGE) if where == path}
    assert wanted - functions(ROOT / path) == set()


def test_every_row_is_there() -> None:
    assert ROWS.keys() >= CONCERNING


@pytest.mark.parametrize("number", sorted(ROWS))
def test_a_row_has_a_test_that_bears_its_name(number: int) -> None:
    holes, tests = ROWS[number]
    names = [name for _, name in NAMED.findall(tests)]
    for hole in holes.split(", "):
        words = hole.lower().removeprefix("cve-").removeprefix("ghsa-").split("-")
        assert any(words[-1] in name for name in names), f"no test of {hole} is called after it"


def test_an_attack_without_a_test_is_no_row() -> None:
    attacks = PAGE.partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line for line in attacks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row)] == []
