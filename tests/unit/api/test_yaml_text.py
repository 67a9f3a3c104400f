"""YAML that anybody may have written: how much of it is read, and where things stand in it."""

import pytest

from pilus_api.errors import InvalidError
from pilus_api.yaml_text import HEAVIEST, LONGEST, LONGEST_LIST, BrokenYaml, Document, Position, located, parsed


def one(text: str) -> Document:
    (found,) = located(text)
    assert isinstance(found, Document)
    return found


@pytest.mark.parametrize("kind", ["kind: List", '    "kind": "List",', "kind:  List  "])
def test_a_list_may_be_longer_than_an_object(kind: str) -> None:
    def text(kind: str, size: int) -> str:
        return f"{{\n{kind}\n}}\n" + "#" * (size - len(kind) - 5) if '"' in kind else f"{kind}\n" + "#" * (size - len(kind) - 1)

    assert parsed(text(kind, LONGEST_LIST)) == {"kind": "List"}
    assert parsed(text(kind.replace("List", "Pod"), LONGEST)) == {"kind": "Pod"}
    for long in (text(kind, LONGEST_LIST + 1), text(kind.replace("List", "Pod"), LONGEST + 1), f"a: {kind}\n" + "\n" * LONGEST):
        with pytest.raises(InvalidError, match="no API server holds an object of more than"):
            parsed(long)
        assert [type(found) for found in located(long)] == [BrokenYaml]


def test_merges_are_counted_before_they_are_made() -> None:
    """Each of these lines is nine times the one before: 40 of them would fill any memory."""
    lines = ["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 40))]
    (found,) = located("\n".join(lines))
    assert isinstance(found, BrokenYaml)
    assert found.message == f"more than {HEAVIEST} keys merged"
    shared = "all: &a {x: 1, y: 2}\nheld: {<<: *a, y: 3, z: 4}\n"
    assert one(shared).value["held"] == {"x": 1, "y": 3, "z": 4}


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("spec", 3, 1),
        ("metadata.annotations.pilus.io/mode", 2, 26),
        ("metadata.annotations.pilus.io/mode.x", 2, 26),
        ("spec.a.b", 4, 3),
        ("spec.a.c", 5, 3),
        ("spec.list[1].name and more", 6, 15),
        ("spec.list[2]", 6, 3),
        ("nowhere", 1, 1),
        ("", 1, 1),
    ],
)
def test_where_a_field_stands(path: str, line: int, column: int) -> None:
    text = "kind: x\nmetadata: {annotations: {pilus.io/mode: audit}}\nspec:\n  a.b: 1\n  a: {b: 1}\n  list: [{}, {name: y}]\n"
    assert one(text).position(path) == Position(line, column)
