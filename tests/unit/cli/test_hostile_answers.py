"""Names, labels, flows and policies are written by whom we don't know. CVE-2025-48056: no command lets a terminal obey them.

Every command that there is, found by itself, against answers in which every field is hostile and of any type.
"""

import ast
import contextlib
import io
import json
import os
import random
import socket
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import pilus_cli
from pilus_cli import client
from pilus_cli.main import cli, main

EVIL = [
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m",
    "a\rb",
    "a\nfake line",
    "a\x08\x08b",
    "\x00",
    "\u202egpj.exe",
    "\u200b\u2066",
    "\u2028next",
    "[bold red]not markup[/]",
    ":boom:",
    "\ue000\U000e0041",
    "\x7f",
    "x" * 200,
    "\ud800",
]
ROUNDS = int(os.environ.get("PILUS_SOAK", "25"))
SOURCES = sorted(Path(str(pilus_cli.__file__)).parent.glob("*.py"))
# Whatever the commands may look for in an answer.
FIELDS = sorted({
    node.value for source in SOURCES for node in ast.walk(ast.parse(source.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier() and node.value.islower()
} - {"ok"})  # fmt: skip


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in sorted(group.commands):
        found = group.commands[name]
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))
        else:
            arguments = ["1" for one in found.params if isinstance(one, click.Argument)]
            yield (*path, name, *arguments, *(["--no-follow"] if name == "monitor" else []))


COMMANDS = list(_commands(cli))


def answers(chance: random.Random) -> dict[str, Any]:
    """An object with every field that a command may look for, of any type, and hostile wherever there is a word. Not drawn by
    hypothesis: so many draws cost more than the commands."""

    def inner() -> dict[str, Any]:
        # Half of them, another half each time: all in all of them are more than a socket takes at once.
        return dict.fromkeys(chance.sample(FIELDS, len(FIELDS) // 2), chance.choice(EVIL))

    kinds: list[Callable[[], Any]] = [lambda: chance.choice(EVIL)] * 4
    kinds += [lambda: 1, lambda: None, lambda: True, lambda: [chance.choice(EVIL)], inner, lambda: [inner()]]
    held = {name: chance.choice(kinds)() for name in FIELDS}
    return held | {"number": 1, "identity": chance.choice((1, 1, chance.choice(EVIL)))}


def _run(held: dict[str, Any], arguments: tuple[str, ...]) -> str:
    """What comes out, errors too; exit status 0, 1 or 2."""
    line = json.dumps(
        {"ok": True, "items": [held], "item": held} | {k: v for k, v in held.items() if k not in ("items", "item", "ok")}
    ).encode()
    assert len(line) < 1 << 20
    out, held_argv = io.StringIO(), sys.argv

    def connect(*_: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        stack.enter_context(theirs)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        theirs.sendall(line + b"\n")
        theirs.shutdown(socket.SHUT_WR)
        return ours

    with (
        contextlib.ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.setattr(client, "_connect", connect)
        patch.setattr(sys, "argv", ["pilus", *arguments])
        with contextlib.suppress(SystemExit):
            main()
    assert sys.argv is held_argv
    return out.getvalue()


def _obeyed(shown: str) -> list[str]:
    """What a terminal would act on, but the ends of our own lines."""
    return [one for one in shown if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(one) for one in COMMANDS])
def test_cve_2025_48056_no_command_lets_a_terminal_obey(command: tuple[str, ...], form: str) -> None:
    chance = random.Random(f"{command}{form}")  # noqa: S311  # repeatable on purpose
    shown = [_run(answers(chance), ("-o", form, *command)) for _ in range(ROUNDS)]
    assert [_obeyed(one) for one in shown if _obeyed(one)] == []
    assert all(shown), "a command that shows nothing proves nothing"


def test_a_name_makes_no_line_of_its_own() -> None:
    """Not even by a newline: who reads drops line by line reads ours alone."""
    held = dict.fromkeys(FIELDS, "a\nDROPPED forged") | {"time": 1.0}
    shown = _run(held, ("monitor", "--no-follow"))
    assert len(shown.splitlines()) == 1
    assert "forged" in shown


def test_all_commands_are_here() -> None:
    assert {"status", "monitor"} <= {one[0] for one in COMMANDS}
    assert len(COMMANDS) >= 12
    assert {"labels", "name", "reason", "rule", "verdict", "message", "classes"} <= set(FIELDS)
