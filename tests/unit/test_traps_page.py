"""docs/traps.md promises tests: every trap has a row, and each test and each case that a row names is there."""

import re

import pytest
import yaml
from tests.pages import ROOT, named, page

PAGE = page("traps.md")
TRAPS = {*range(1, 48), 64, 66, 67}
TABLES = {
    "test_a_refused_policy_is_refused": "refused",
    "test_an_accepted_policy_is_accepted": "accepted",
}
_CASES = re.compile(r"::(\w+)` \(([^)]*)\)")


@pytest.mark.parametrize("path", PAGE.paths)
def test_every_test_that_is_named_is_there(path: str) -> None:
    assert PAGE.missing(path) == set()


def test_every_trap_has_a_row() -> None:
    assert PAGE.rows.keys() == TRAPS


@pytest.mark.parametrize("number", sorted(PAGE.rows))
def test_a_row_names_tests_and_cases_that_are_there(number: int) -> None:
    """A table of cases proves by its cases: a row that names one says which."""
    said, tests = PAGE.rows[number]
    assert said
    assert named(tests)
    told = dict(_CASES.findall(tests))
    assert told.keys() == {name for _, name in named(tests)} & TABLES.keys()
    for test, cases in told.items():
        held = {case["name"] for case in yaml.safe_load((ROOT / f"tests/unit/api/{TABLES[test]}.yaml").read_text())}
        names = re.findall(r"\*([^*]+)\*", cases)
        assert names
        assert set(names) <= held
