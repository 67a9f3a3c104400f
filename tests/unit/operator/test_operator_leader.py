"""The Lease: who may take it, and what a leader does when it can't renew."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from pilus_api.connection import Access, AlreadyExists, Conflict, Connection, NotFound, Object, Unavailable
from pilus_operator.leader import Election, Observed, Times, claim, judge, observe

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("holder", "seen", "may"),
    [("", 99.0, True), ("us", 99.0, True), ("them", 99.0, False), ("them", 88.5, False), ("them", 88.0, True)],
)
def test_a_lease_is_taken_when_its_holder_gave_no_sign_for_as_long_as_it_promised(holder: str, seen: float, may: bool) -> None:
    assert judge(Observed(holder, "s", 12.0, seen), "us", 100.0) is may


def test_signs_are_timed_by_our_clock() -> None:
    first = observe({"spec": {"holderIdentity": "a", "renewTime": "1", "leaseDurationSeconds": 12}}, None, 5.0)
    assert first == Observed("a", "1 None", 12.0, 5.0)
    assert observe({"spec": {"holderIdentity": "a", "renewTime": "1"}}, first, 9.0).seen == 5.0
    assert observe({"spec": {"holderIdentity": "a", "renewTime": "2"}}, first, 9.0).seen == 9.0
    assert observe({"spec": {"holderIdentity": "b", "renewTime": "1"}}, first, 9.0).seen == 9.0


def test_taking_counts_a_transition_and_renewing_does_not() -> None:
    taken = claim({}, "us", Times(), NOW, {"note": "1"})
    assert taken["metadata"] == {"name": "pilus-operator", "namespace": "kube-system", "annotations": {"note": "1"}}
    assert (taken["spec"]["leaseTransitions"], taken["spec"]["renewTime"]) == (1, "2026-01-02T03:04:05.000000Z")
    renewed = claim(taken, "us", Times(), NOW, {"note": "2"})
    assert (renewed["spec"]["leaseTransitions"], renewed["metadata"]["annotations"]) == (1, {"note": "2"})
    assert claim(taken, "them", Times(), NOW, {})["spec"]["leaseTransitions"] == 2


class Leases(Connection):
    """One Lease, kept as an API server keeps it."""

    def __init__(self) -> None:
        super().__init__(Access("http://nowhere"))
        self.lease: Object | None = None
        self.away = False
        self._version = 0

    def _store(self, body: Object) -> Object:
        self._version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        return self.lease

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Object:  # noqa: ARG002  # there is one Lease
        if self.away:
            raise Unavailable("away")
        if self.lease is None:
            raise NotFound("no Lease")
        return self.lease

    async def post(self, path: str, body: Object, params: Mapping[str, str | int] | None = None) -> Object:  # noqa: ARG002  # there is one Lease
        if self.lease is not None:
            raise AlreadyExists("there is one")
        return self._store(body)

    async def put(self, path: str, body: Object, params: Mapping[str, str | int] | None = None) -> Object:  # noqa: ARG002  # there is one Lease
        if self.away:
            raise Unavailable("away")
        if self.lease is None or body["metadata"].get("resourceVersion") != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("another version")
        return self._store(body)


FAST = Times(lease=1.0, renew=0.2, retry=0.02)


def election(leases: Leases, name: str) -> Election:
    return Election(leases, name, FAST)


async def test_one_leads_and_the_other_takes_over_when_it_dies() -> None:
    leases = Leases()
    first, second = election(leases, "first"), election(leases, "second")
    await first.acquire()
    hold = asyncio.create_task(first.hold(lambda: {"note": "from the first"}))
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(1.3)
    assert not waiting.done()
    hold.cancel()  # it dies without a word
    async with asyncio.timeout(5):
        assert (await waiting)["note"] == "from the first"


async def test_who_gives_it_back_is_followed_at_once() -> None:
    leases = Leases()
    first, second = election(leases, "first"), election(leases, "second")
    await first.acquire()
    await first.release({"note": "farewell"})
    async with asyncio.timeout(0.25):
        assert (await second.acquire())["note"] == "farewell"


async def test_of_two_takers_one_wins() -> None:
    leases = Leases()
    contenders = [asyncio.create_task(election(leases, f"c{number}").acquire()) for number in range(5)]
    await asyncio.sleep(0.3)
    assert sum(task.done() for task in contenders) == 1
    for task in contenders:
        task.cancel()


async def test_a_leader_that_cannot_renew_stands_back_before_another_may_take_it() -> None:
    leases = Leases()
    first = election(leases, "first")
    await first.acquire()
    leases.away = True
    async with asyncio.timeout(0.29):
        await first.hold(dict)


async def test_a_leader_whose_lease_was_taken_stands_back_and_one_whose_lease_was_touched_does_not() -> None:
    leases = Leases()
    first = election(leases, "first")
    await first.acquire()
    assert leases.lease is not None
    leases._store({**leases.lease, "metadata": {**leases.lease["metadata"], "annotations": {"somebody": "was here"}}})
    hold = asyncio.create_task(first.hold(dict))
    await asyncio.sleep(0.3)
    assert not hold.done()
    leases._store(claim(leases.lease, "second", FAST, NOW, {}))
    async with asyncio.timeout(1):
        await hold
    await first.release({})
    assert leases.lease["spec"]["holderIdentity"] == "second"
