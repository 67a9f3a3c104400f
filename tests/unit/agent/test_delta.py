"""The tracker: whatever has happened, what it wants to be done leads from what is held to what is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_agent.diff.delta import DeltaTracker
from pilus_agent.diff.order import DEPENDS, REMOVE_AT_ONCE, REMOVE_LATER, WRITE_ORDER, allowed

Road = list[tuple[str, dict[bytes, bytes]]]
keys = st.integers(0, 5).map(lambda number: bytes([number]))
rows = st.dictionaries(keys, st.sampled_from([b"", b"a", b"b"]))
roads: st.SearchStrategy[Road] = st.lists(
    st.tuples(st.sampled_from(["want", "drop", "want_all", "hold_all", "wrote", "removed"]), rows), max_size=20
)


def walk(tracker: DeltaTracker, road: Road) -> None:
    for step, given_rows in road:
        match step:
            case "want":
                for key, value in given_rows.items():
                    tracker.want(key, value)
            case "drop":
                for key in given_rows:
                    tracker.want(key, None)
            case "want_all":
                tracker.want_all(given_rows)
            case "hold_all":
                tracker.hold_all(given_rows)
            case "wrote":
                tracker.wrote(given_rows)
            case "removed":
                tracker.removed(given_rows)


def assert_difference(tracker: DeltaTracker) -> None:
    wanted, held = tracker.wanted, tracker.held
    assert tracker.updates == {key: value for key, value in wanted.items() if held.get(key) != value}
    assert tracker.deletes == held.keys() - wanted.keys()
    assert tracker.settled == (wanted == held)


def obey(tracker: DeltaTracker) -> dict[bytes, bytes]:
    """A kernel that does as it is told."""
    kernel = dict(tracker.held)
    updates, deletes = dict(tracker.updates), list(tracker.deletes)
    kernel.update(updates)
    tracker.wrote(updates)
    for key in deletes:
        del kernel[key]
    tracker.removed(deletes)
    return kernel


@given(roads)
def test_any_road_ends_with_what_is_wanted(road: Road) -> None:
    tracker = DeltaTracker()
    for step in road:
        walk(tracker, [step])
        assert_difference(tracker)
    wanted = dict(tracker.wanted)
    assert obey(tracker) == wanted == tracker.held
    assert tracker.settled


@given(roads, roads, rows, rows)
def test_every_road_to_a_state_gives_the_same(one: Road, other: Road, wanted: dict[bytes, bytes], held: dict[bytes, bytes]) -> None:
    trackers = []
    for road, last in ((one, ("want_all", "hold_all")), (other, ("hold_all", "want_all"))):
        tracker = DeltaTracker()
        walk(tracker, road)
        walk(tracker, [(step, wanted if step == "want_all" else held) for step in last])
        trackers.append((tracker.wanted, tracker.held, tracker.updates, tracker.deletes))
    assert trackers[0] == trackers[1]


@given(roads, rows)
def test_row_by_row_is_as_good_as_whole(road: Road, wanted: dict[bytes, bytes]) -> None:
    tracker, whole = DeltaTracker(), DeltaTracker()
    walk(tracker, road)
    walk(whole, road)
    whole.want_all(wanted)
    for key in set(tracker.wanted) - wanted.keys():
        tracker.want(key, None)
    for key, value in reversed(list(wanted.items())):
        tracker.want(key, value)
        tracker.want(key, value)
    assert (tracker.updates, tracker.deletes) == (whole.updates, whole.deletes)


K = b"k"
V: dict[bytes, bytes] = {K: b"v"}
W: dict[bytes, bytes] = {K: b"w"}
CASES: list[tuple[str, Road, dict[bytes, bytes], set[bytes]]] = [
    ("nothing", [], {}, set()),
    ("never seen, wanted no more", [("drop", V)], {}, set()),
    ("a row of an earlier agent", [("hold_all", V)], {}, {K}),
    ("the same row as an earlier agent's", [("hold_all", V), ("want", V)], {}, set()),
    ("another value", [("hold_all", V), ("want", W)], W, set()),
    ("an empty value is a value", [("want", {K: b""})], {K: b""}, set()),
    ("somebody else took it away", [("want", V), ("wrote", V), ("hold_all", {})], V, set()),
    ("changed while it was written", [("want", W), ("wrote", V)], W, set()),
    ("dropped while it was written", [("want", V), ("drop", V), ("wrote", V)], {}, {K}),
    ("wanted again while it was removed", [("hold_all", V), ("want", V), ("removed", V)], V, set()),
]


@pytest.mark.parametrize(("road", "updates", "deletes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_cases(road: Road, updates: dict[bytes, bytes], deletes: set[bytes]) -> None:
    tracker = DeltaTracker()
    walk(tracker, road)
    assert (tracker.updates, tracker.deletes) == (updates, deletes)
    assert tracker.settled == (not updates and not deletes)


def test_a_row_waits_for_what_it_points_at() -> None:
    for table, needs in DEPENDS.items():
        for need in needs:
            assert WRITE_ORDER.index(need) < WRITE_ORDER.index(table)
            assert not allowed(table, frozenset({need}))
        assert allowed(table, frozenset(WRITE_ORDER) - needs)
    assert allowed("settings", frozenset(WRITE_ORDER))
    assert not allowed("endpoints", frozenset({"policies", "ipcache"}))


def test_removal_runs_the_other_way() -> None:
    removed = [*REMOVE_AT_ONCE, *REMOVE_LATER]
    assert sorted([*removed, "settings"]) == sorted(WRITE_ORDER)
    assert removed.index("endpoints") < removed.index("policies") < removed.index("peers") < removed.index("verdicts")
    assert removed.index("policies") < removed.index("cidrs") < removed.index("verdicts")
