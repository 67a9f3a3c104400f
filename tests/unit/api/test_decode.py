"""JSON whose depth its author chose. CVE-2023-41332's kind: an object of anybody's must not stop who reads it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_api.decode import DEEPEST, decode


def _depth(held: Any) -> int:
    depth, level = 0, [held]
    while level:
        depth += 1
        inner: list[Any] = []
        for one in level:
            inner += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        level = [one for one in inner if isinstance(one, dict | list)]
    return depth


@pytest.mark.parametrize("pair", ['{"a":|}', "[|]", '{"a":[|]}'])
@pytest.mark.parametrize("levels", [1, DEEPEST, 990, 10_000])
def test_any_depth_is_read(pair: str, levels: int) -> None:
    before, after = pair.split("|")
    inner = before * levels + '"x"' + after * levels
    held = decode(b'{"kept": {"b": [1, "}]"]}, "deep": ' + inner.encode() + b', "after": "\\"{[", "list": [[], {}]}')
    assert held["kept"] == {"b": [1, "}]"]}
    assert held["after"] == '"{['
    assert held["list"] == [[], {}]
    assert _depth(held) <= 1000


def test_all_that_is_too_deep_is_cut_and_its_neighbours_are_not() -> None:
    deep = "[" * 5000 + "]" * 5000
    held = decode(f'{{"items": [{{"name": "a", "x": {deep}}}, {{"name": "b", "x": [{deep}, 1]}}, {{"name": "c"}}]}}'.encode())
    assert [item["name"] for item in held["items"]] == ["a", "b", "c"]
    assert held["items"][1]["x"][1] == 1
    assert _depth(held) == DEEPEST


@pytest.mark.parametrize("raw", [b"[" * 5000, b"[" * 5000 + b"}" * 5000, b"]" * 5, b"", b'{"a": "' + b"[" * 5000, b"\xff"])
def test_what_is_no_json_stays_none(raw: bytes) -> None:
    with pytest.raises(ValueError):  # UnicodeDecodeError is one
        decode(raw)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_it_is_the_decoder_that_it_stands_for(held: Any) -> None:
    assert decode(json.dumps(held).encode()) == held
