"""The last events, and those who listen."""

import asyncio

import pytest

from pilus_observer.history import History

from .make import event


@pytest.mark.parametrize(
    ("published", "asked", "expected"),
    [(0, 5, []), (3, 0, []), (3, 2, [1, 2]), (3, 3, [0, 1, 2]), (3, 10**30, [0, 1, 2]), (6, 9, [2, 3, 4, 5])],
)
def test_last(published: int, asked: int, expected: list[int]) -> None:
    history = History(capacity=4)
    history.publish(event(time=number) for number in range(published))
    assert [found.time for found in history.last(asked)] == expected


async def test_each_subscriber_gets_each_event_once_and_in_order() -> None:
    history = History()
    with history.subscribe() as one, history.subscribe() as other:
        history.publish(event(time=number) for number in range(3))
        for subscription in (one, other):
            assert [(await subscription.next()).time for _ in range(3)] == [0, 1, 2]
    history.publish([event()])
    assert history.lost == 0


async def test_a_slow_subscriber_loses_events_and_holds_up_nobody() -> None:
    history = History(queue=2)
    with history.subscribe() as slow, history.subscribe() as quick:
        for number in range(5):
            history.publish([event(time=number)])
            assert (await quick.next()).time == number
        assert [(await slow.next()).time for _ in range(2)] == [0, 1]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.next(), 0.01)
    assert (slow.lost, quick.lost, history.lost) == (3, 0, 3)
    assert len(history.last(10)) == 5
