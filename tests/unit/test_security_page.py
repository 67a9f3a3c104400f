"""docs/security.md promises tests: each that it names exists, and each hole has one that bears its name."""

import pytest
from tests.pages import named, page

PAGE = page("security.md")
# Of the published list, those that concern what is built.
CONCERNING = {1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 25, 26, 27, 30, 31, 33, 34, 35, 41, 42, 43}


@pytest.mark.parametrize("path", PAGE.paths)
def test_every_test_that_is_named_is_there(path: str) -> None:
    assert PAGE.missing(path) == set()


def test_every_row_is_there() -> None:
    assert PAGE.rows.keys() >= CONCERNING


@pytest.mark.parametrize("number", sorted(PAGE.rows))
def test_a_row_has_a_test_that_bears_its_name(number: int) -> None:
    holes, _, tests = PAGE.rows[number]
    names = [name for _, name in named(tests)]
    for hole in holes.split(", "):
        words = hole.lower().removeprefix("cve-").removeprefix("ghsa-").split("-")
        assert any(words[-1] in name for name in names), f"no test of {hole} is called after it"


def test_an_attack_without_a_test_is_no_row() -> None:
    attacks = PAGE.text.partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line for line in attacks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if not named(row)] == []
