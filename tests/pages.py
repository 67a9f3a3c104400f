"""Pages under docs/ that promise tests: which tests a page names, the rows of its numbered table, and what is not there."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NAMED = re.compile(r"`((?:tests|e2e)/[\w/]+\.py)::(test_\w+)`")
_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)

Named = tuple[str, str]  # file, test


def named(text: str) -> list[Named]:
    """The tests that a text names, written `path::name`."""
    return _NAMED.findall(text)


@cache
def functions(path: str) -> frozenset[str]:
    """Every function of a file of tests; none where there is no such file."""
    if not (ROOT / path).is_file():
        return frozenset()
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@dataclass(frozen=True)
class Page:
    """`rows`: of its numbered tables, the cells behind the number."""

    text: str
    rows: dict[int, tuple[str, ...]]

    @property
    def paths(self) -> list[str]:
        """The files whose tests it names."""
        return sorted({path for path, _ in named(self.text)})

    def missing(self, path: str) -> set[str]:
        """What it names of a file and is not there."""
        return {name for where, name in named(self.text) if where == path} - functions(path)


def page(name: str) -> Page:
    text = (ROOT / "docs" / name).read_text()
    return Page(text, {int(number): tuple(cell.strip() for cell in cells.split(" | ")) for number, cells in _ROW.findall(text)})
