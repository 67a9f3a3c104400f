"""Requests to the local API: one line of bytes in, a request with nothing unexpected in it out (docs/observer-api.md).

Raises RefusedError, whose text and action are for the person who asks. Never: input or output.
"""

import json
from dataclasses import dataclass
from typing import Any

from pilus_api.errors import PilusError

LIMIT = 64 * 1024
LAST = 100

_SEE = "see docs/observer-api.md for what may be asked"
_FIELDS = {"events": {"get", "last", "follow"}, "flows": {"get"}, "counters": {"get"}}


class RefusedError(PilusError):
    """`action` says what to do instead."""

    def __init__(self, error: str, action: str = _SEE) -> None:
        super().__init__(error)
        self.action = action

    def item(self) -> dict[str, Any]:
        return {"ok": False, "error": str(self), "action": self.action}


@dataclass(frozen=True, slots=True)
class Request:
    get: str
    last: int = LAST
    follow: bool = False


def parse(line: bytes) -> Request:
    """Raises RefusedError."""
    if len(line) > LIMIT:
        raise RefusedError(f"the request is longer than {LIMIT} bytes")
    if not line.endswith(b"\n"):
        raise RefusedError("the request does not end with a newline")
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: a thousand brackets
        raise RefusedError("the request is not a line of JSON") from None
    if not isinstance(held, dict):
        raise RefusedError("the request is not a JSON object")
    get = held.get("get")
    if not isinstance(get, str) or get not in _FIELDS:
        raise RefusedError("`get` is none of " + ", ".join(sorted(_FIELDS)))
    strange = sorted(held.keys() - _FIELDS[get])
    if strange:
        raise RefusedError(f"{get} knows no {strange[0][:64]!r}", "are the command line and the observer of one version?")
    last, follow = held.get("last", LAST), held.get("follow", False)
    if isinstance(last, bool) or not isinstance(last, int) or last < 0:
        raise RefusedError("`last` is no whole number of 0 or more")
    if not isinstance(follow, bool):
        raise RefusedError("`follow` is neither true nor false")
    return Request(get, last, follow)
