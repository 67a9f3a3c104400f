"""The file of `label-prefix-file`: what it says, and what ends a process at its start."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilus_api.errors import InvalidError
from pilus_api.label_prefixes import identity_filter
from pilus_api.labels import Label, canonical
from pilus_api.settings import Settings, parse

RESERVED = {"source": "reserved", "prefix": ".*"}
HELD = canonical(
    Label(source, key, "v")
    for source, key in (("k8s", "app"), ("k8s", "team"), ("k8s", "pod-template-hash"), ("node", "team"), ("reserved", "host"))
)


def said(tmp_path: Path, content: Any, **more: str) -> Settings:
    path = tmp_path / "labels.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return parse({"label-prefix-file": str(path), **more})


def kept(settings: Settings) -> set[str]:
    return {str(label).removesuffix("=v") for label in identity_filter(settings)(HELD)}


def test_without_a_file_there_is_what_is_built_in() -> None:
    assert kept(Settings()) == {"k8s:app", "k8s:team", "node:team", "reserved:host"}
    assert kept(parse({"labels": "k8s:app"})) == {"k8s:app", "reserved:host"}


def test_a_file_stands_in_its_place_and_labels_beside_it(tmp_path: Path) -> None:
    entries = [RESERVED, {"source": "k8s", "prefix": "te[a]m", "invert": True}, {"source": "any", "prefix": "app", "invert": False}]
    settings = said(tmp_path, {"version": 1, "valid-prefixes": entries})
    assert kept(settings) == {"k8s:app", "reserved:host"}
    settings = said(tmp_path, {"version": 1, "valid-prefixes": entries}, labels="k8s:pod")
    assert kept(settings) == {"k8s:app", "k8s:pod-template-hash", "reserved:host"}


def entries(*held: Any) -> dict[str, Any]:
    return {"version": 1, "valid-prefixes": [RESERVED, *held]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode"),
        pytest.param(b"[" * 2000, "Expecting", id="nested without end"),
        ([], "it is no JSON object"),
        ("x", "it is no JSON object"),
        ({"valid-prefixes": [RESERVED]}, "version: Field required"),
        ({"version": 2, "valid-prefixes": [RESERVED]}, "version: Input should be 1"),
        ({"version": "1", "valid-prefixes": [RESERVED]}, "version: Input should be 1"),
        ({"version": 1}, "valid-prefixes: Field required"),
        ({"version": 1, "valid-prefixes": {}}, "valid-prefixes: "),
        ({"version": 1, "prefixes": [RESERVED], "valid-prefixes": [RESERVED]}, "prefixes: "),
        ({"version": 1, "valid-prefixes": []}, "does not include reserved:.*"),
        ({"version": 1, "valid-prefixes": [{"source": "k8s", "prefix": ".*"}]}, "does not include reserved:.*"),
        ({"version": 1, "valid-prefixes": [RESERVED | {"invert": True}]}, "does not include reserved:.*"),
        ({"version": 1, "valid-prefixes": [{"source": "reserved", "prefix": "host"}]}, "does not include reserved:.*"),
        (entries("k8s:app"), "valid-prefixes[1]: "),
        (entries({"source": "k8s"}), "valid-prefixes[1].prefix: Field required"),
        (entries({"source": "k8s", "prefix": ""}), "valid-prefixes[1].prefix: "),
        (entries({"prefix": "app"}), "valid-prefixes[1].source: Field required"),
        (entries({"source": "", "prefix": "app"}), "valid-prefixes[1].source: "),
        (entries({"source": "k8s", "prefix": "app", "invert": "true"}), "valid-prefixes[1].invert: "),
        (entries({"source": "k8s", "prefix": "app", "inverted": True}), "valid-prefixes[1].inverted: "),
        (entries({"source": "k8s", "prefix": "(app"}), "'(app' is not a regular expression: missing )"),
        (entries({"source": "k8s", "prefix": "a{1001}"}), "is not a regular expression"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_it(tmp_path: Path, content: Any, words: str) -> None:
    settings = said(tmp_path, content)
    with pytest.raises(InvalidError) as caught:
        identity_filter(settings)
    assert str(caught.value).startswith(f"label-prefix-file: {settings.label_prefix_file}: ")
    assert words in str(caught.value)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InvalidError, match=f"^label-prefix-file: {path}: "):
            identity_filter(parse({"label-prefix-file": str(path)}))
