"""Nothing from the cluster reaches a terminal raw."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pilus_cli.client import Item
from pilus_cli.flows import ending, event_line
from pilus_cli.terminal import safe, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1", "web-1"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\nc\td", "a\\x0db\\x0ac\\x09d"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202ecba", "\\u202ecba"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("naïve 端", "naïve 端"),
        (None, "-"),
        (7, "7"),
    ],
)
def test_a_terminal_shows_and_never_obeys(text: object, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_whatever_a_name_holds_no_control_character_is_left(text: str) -> None:
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in safe(text))


def test_cve_2025_48056_an_escape_sequence_in_a_flow_is_printed_as_text() -> None:
    hostile = "evil\x1b]0;owned\x07[bold]"
    event: Item = {
        "time": 0.0,
        "verdict": hostile,
        "protocol": hostile,
        "reason": hostile,
        "rule": hostile,
        "direction": hostile,
        "source": {"address": hostile, "name": hostile, "port": 1, "identity": hostile},
        "destination": None,
    }
    out = io.StringIO()
    Console(file=out, markup=False, width=1000, color_system=None).print(event_line(event))
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[bold]" in out.getvalue()


def test_a_table_takes_no_cell_for_markup() -> None:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(table(["NAME"], [["[red]x[/red]\x1b[0m"]]))
    assert "[red]x[/red]\\x1b[0m" in out.getvalue()


def test_an_ipv6_address_with_a_port_stands_in_brackets() -> None:
    assert ending({"address": "fd00::1", "port": 80, "identity": 5, "name": None}) == "[fd00::1]:80 identity 5"
    assert ending({"address": "fd00::1", "port": None, "identity": 5, "name": "a/b"}) == "a/b (fd00::1) identity 5"
