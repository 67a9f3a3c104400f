"""Requests, friendly and hostile."""

import json

import pytest

from pilus_observer.request import LIMIT, RefusedError, Request, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"get": "events"}', Request("events")),
        ('{"get": "events", "last": 0, "follow": true}', Request("events", 0, True)),
        ('{"follow": false, "last": 1'+"0" * 29 + ', "get": "events"}', Request("events", 10**29)),
        ('{"get": "flows"}', Request("flows")),
        ('{"get": "counters"}', Request("counters")),
    ],
)  # fmt: skip
def test_accepted(line: str, expected: Request) -> None:
    assert parse(line.encode() + b"\n") == expected


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"",
        b'{"get": "events"}',  # cut off
        b'{"get": "events"\n',
        b"null\n",
        b"[]\n",
        b'"events"\n',
        b"{}\n",
        b'{"get": null}\n',
        b'{"get": ["events"]}\n',
        b'{"get": "secrets"}\n',
        b'{"get": "flows", "last": 5}\n',
        b'{"get": "events", "last": -1}\n',
        b'{"get": "events", "last": true}\n',
        b'{"get": "events", "last": 1.5}\n',
        b'{"get": "events", "last": NaN}\n',
        b'{"get": "events", "last": "5"}\n',
        b'{"get": "events", "last": ' + b"9" * 5000 + b"}\n",
        b'{"get": "events", "follow": 1}\n',
        b'{"get": "events", "follow": null}\n',
        b'{"get": "events", "\\u001b[2J": 1}\n',
        b"\xff\xfe\n",
        b"\0\n",
        b"[" * 60_000 + b"\n",
        b'{"get": "events"}' + b" " * LIMIT + b"\n",
    ],
)
def test_refused(line: bytes) -> None:
    with pytest.raises(RefusedError) as refusal:
        parse(line)
    shown = refusal.value.item()
    assert shown["ok"] is False
    assert shown["error"]
    assert shown["action"]
    assert "\x1b" not in json.dumps(shown)
