"""JSON of other people's making.

In: bytes. Out: what they say, as plain Python values. Raises ValueError for what is no JSON, and nothing else: who may write an
object (a Service, a pod) also chooses how deep its metadata.managedFields are nested, up to the API server's 10,000 levels, and
the interpreter's own decoder gives up at about a thousand. What is nested deeper than any kind of ours is cut off, unread.
"""

import json
import re
from typing import Any, Final

DEEPEST: Final = 100  # levels; our own kinds have some twenty
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_OPEN: Final = frozenset((b"{", b"["))
_CLOSE: Final = frozenset((b"}", b"]"))


def decode(raw: bytes) -> Any:
    """Cost of what is too deep: one more pass over the bytes, some 60 ms a megabyte. All else costs nothing more."""
    try:
        return json.loads(raw)
    except RecursionError:
        return json.loads(_cut(raw))


def _cut(raw: bytes) -> bytes:
    """The same, with null in place of what stands deeper than DEEPEST."""
    kept: list[bytes] = []
    depth = begin = 0
    for found in _TOKEN.finditer(raw):
        token = found.group()
        if token in _OPEN:
            depth += 1
            if depth == DEEPEST + 1:
                kept += (raw[begin : found.start()], b"null")
        elif token in _CLOSE:
            if depth == DEEPEST + 1:
                begin = found.end()
            depth -= 1
            if depth < 0:
                break  # no JSON: the decoder says where
    if depth <= DEEPEST:
        kept.append(raw[begin:])
    return b"".join(kept)
