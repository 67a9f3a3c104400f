"""What is said of policies, cut to what a PilusNodeStatus takes: one that is too much is refused whole, with what it says of all.

In: policies' states, as the policy stage tells them. Out: the same with ends, in the words of a RealisedPolicy. Pure.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any, Final

from pilus_api.resources.pilusnodestatus import LONGEST_ERROR, LONGEST_NAMES, LONGEST_TEXT, MORE, MOST_PODS

Item = dict[str, Any]

_MOST_TEXTS: Final = 40
# Bytes of all words together: an API server's store takes objects of 1.5 MiB, and a policy has some 400 bytes without any.
ROOM: Final = 1 << 19
_LISTS: Final = ("unenforced", "notes")
_WORDS: Final = ("error", *_LISTS, "pods")


def bounded(policies: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Each as far as it goes; where all together are too much, those of which most is said give way."""
    found = [_ends(policy) for policy in policies]
    worded = [policy for policy in found if any(policy.get(name) for name in _WORDS)]
    if _fit(worded):
        return found
    share = ROOM // len(worded)
    return [_within(policy, share) for policy in found]


def _fit(policies: Iterable[Item]) -> bool:
    words = [[policy.get(name, ()) for name in _WORDS] for policy in policies]
    # Counted first, for it is quick: this is done after every pass.
    characters = sum(len(error) + sum(map(len, unenforced)) + sum(map(len, notes)) for error, unenforced, notes, _ in words)
    return characters <= ROOM and _bytes(words) <= ROOM


def _ends(policy: Mapping[str, Any]) -> Item:
    found = dict(policy)
    if found.get("error"):
        found["error"] = _ended(found["error"], LONGEST_ERROR)
    for name in _LISTS:
        if found.get(name):
            found[name] = [_ended(text, LONGEST_TEXT) for text in _some(found[name], _MOST_TEXTS)]
    if found.get("pods"):
        # A name that is longer than that is no object's.
        pods = [pod for pod in found["pods"] if all(len(pod[key]) <= most for key, most in LONGEST_NAMES.items())]
        found["pods"] = pods[:MOST_PODS]
    return found


def _within(policy: Item, room: int) -> Item:
    """`room`: bytes, of which a count of what is left out takes none. First why, then what of it, then for whom."""
    found = dict(policy)
    if error := found.get("error"):
        while (used := _bytes(error)) > room:
            error = _ended(error, len(error) * room // used)
        found["error"] = error
        room -= used
    for name in _LISTS:
        if found.get(name):
            found[name] = _some(found[name], _fitting(found[name], room))
            room -= sum(map(_bytes, found[name]))
    if found.get("pods"):
        found["pods"] = found["pods"][: _fitting(found["pods"], room)]
    return found


def _bytes(held: Any) -> int:
    """At most so many in the API server's JSON, which escapes some characters that ours does not."""
    text = json.dumps(held)
    return len(text) + 5 * sum(map(text.count, "<>&"))


def _fitting(held: Sequence[Any], room: int) -> int:
    """How many of the first have room."""
    return sum(1 for _ in takewhile(lambda used: used <= room, accumulate(map(_bytes, held))))


def _ended(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _some(texts: Sequence[str], most: int) -> list[str]:
    """The first ones, and how many more there are; the last may be such a count already."""
    if len(texts) <= most:
        return list(texts)
    kept = list(texts[: max(most - 1, 0)])
    counted = MORE.match(texts[-1])
    return [*kept, f"and {len(texts) - len(kept) + (int(counted[1]) - 1 if counted else 0)} more"]
