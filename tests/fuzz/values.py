"""JSON that means nothing, and objects with one place of them gone wrong."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

_CONTROL = [
    "\x1b[2J\x1b]0;owned\x07",
    "\u202etxt.exe",
    "\x00",
    "a" * 5000,
    "-" * 300,
    "../../etc/passwd",
    "%s%n{0}",
    "\ud800",
    "\u2028",
]
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(_CONTROL),
    st.sampled_from(["0", "-1", "9" * 5000, "NaN", "10.0.0.0/33", "::/0", "fe80::1%eth0"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from([2**31, 2**64, -(2**63), 10**400]), st.floats(), TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8)

Place = tuple[Any, ...]


def places(held: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in an object but the whole."""
    for key, value in held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def with_value(held: Mapping[str, Any], at: Place, value: Any) -> dict[str, Any]:
    """The same object, with another value there."""
    made: dict[str, Any] = copy.deepcopy(dict(held))
    inner: Any = made
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return made
