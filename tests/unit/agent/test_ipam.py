"""The allocator, by table and by every order of events that hypothesis finds."""

import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pilus_agent.facts import Address, Network
from pilus_agent.ipam import Allocator, ExhaustedError, HeldError, NoRangeError, RangeInUseError
from pilus_api.errors import InvalidError

FOUR = ip_network("10.0.1.0/29")  # six to give, one of them the router: .2 to .6
SIX = ip_network("fd00:0:0:1::/64")


def texts(addresses: tuple[Address, ...]) -> list[str]:
    return [str(address) for address in addresses]


def given_out(allocator: Allocator, count: int, now: float = 0) -> list[str]:
    return [str(allocator.allocate(f"o{index}", now)[0]) for index in range(count)]


def test_one_of_each_version() -> None:
    allocator = Allocator([SIX, FOUR])
    assert texts(allocator.allocate("a", 0)) == ["10.0.1.2", "fd00:0:0:1::2"]
    assert texts(allocator.allocate("b", 0)) == ["10.0.1.3", "fd00:0:0:1::3"]
    assert texts(allocator.allocate("a", 0)) == ["10.0.1.2", "fd00:0:0:1::2"]
    assert allocator.owners() == ("a", "b")
    assert {str(network): str(router) for network, router in allocator.routers().items()} == {
        "fd00:0:0:1::/64": "fd00:0:0:1::1",
        "10.0.1.0/29": "10.0.1.1",
    }


def test_never_the_networks_the_routers_and_the_last() -> None:
    assert given_out(Allocator([FOUR]), 5) == [f"10.0.1.{last}" for last in range(2, 7)]
    assert given_out(Allocator([ip_network("10.0.1.0/30")]), 1) == ["10.0.1.2"]


def test_small_numbers_of_ipv6_stay_ipv6() -> None:
    assert texts(Allocator([ip_network("::/112")]).allocate("a", 0)) == ["::2"]


def test_least_recently_used_first() -> None:
    allocator = Allocator([FOUR])
    given_out(allocator, 4)
    allocator.release("o2", 1)
    allocator.release("o0", 2)
    assert texts(allocator.allocate("x", 100)) == ["10.0.1.6"]  # never given
    assert texts(allocator.allocate("y", 100)) == ["10.0.1.4"]
    assert texts(allocator.allocate("z", 100)) == ["10.0.1.2"]


def test_rests_and_says_until_when() -> None:
    allocator = Allocator([FOUR])
    given_out(allocator, 5)
    with pytest.raises(ExhaustedError, match="5 are held, none rests") as error:
        allocator.allocate("x", 0)
    assert (error.value.version, error.value.held, error.value.resting, error.value.until) == (4, 5, 0, None)
    allocator.release("o3", 10)
    allocator.release("o1", 12)
    with pytest.raises(ExhaustedError, match="the first for 18 s more") as error:
        allocator.allocate("x", 22)
    assert (error.value.held, error.value.resting, error.value.until) == (3, 2, 40)
    assert allocator.resting(22) == {ip_address("10.0.1.5"): 10, ip_address("10.0.1.3"): 12}
    with pytest.raises(ExhaustedError):
        allocator.allocate("x", 39.9)
    allocator.rest = 60  # the API server went away
    with pytest.raises(ExhaustedError):
        allocator.allocate("x", 40)
    allocator.rest = 30
    assert texts(allocator.allocate("x", 40)) == ["10.0.1.5"]


def test_release_is_idempotent_and_starts_the_rest_once() -> None:
    allocator = Allocator([FOUR])
    given_out(allocator, 5)
    assert texts(allocator.release("o0", 0)) == ["10.0.1.2"]
    assert allocator.release("o0", 20) == ()
    assert allocator.release("nobody", 20) == ()
    assert texts(allocator.allocate("x", 30)) == ["10.0.1.2"]


def test_all_or_nothing() -> None:
    allocator = Allocator([FOUR, ip_network("fd00::/126")])
    allocator.allocate("a", 0)
    with pytest.raises(ExhaustedError, match="IPv6"):
        allocator.allocate("b", 0)
    assert allocator.owners() == ("a",)
    assert allocator.held_by("b") == ()


def test_no_range() -> None:
    with pytest.raises(NoRangeError):
        Allocator().allocate("a", 0)


def test_a_restart() -> None:
    allocator = Allocator([FOUR])
    allocator.reserve("a", ip_address("10.0.1.4"))
    allocator.reserve("a", ip_address("10.0.1.4"))
    with pytest.raises(HeldError, match="a holds it"):
        allocator.reserve("b", ip_address("10.0.1.4"))
    for own in ("10.0.1.0", "10.0.1.1", "10.0.1.7"):
        with pytest.raises(HeldError, match="node's own"):
            allocator.reserve("b", ip_address(own))
    allocator.rest_since(ip_address("10.0.1.6"), 5)
    allocator.rest_since(ip_address("10.0.1.3"), 4)
    allocator.rest_since(ip_address("10.0.1.4"), 4)  # is held
    allocator.rest_since(ip_address("10.0.1.1"), 4)  # is the router's
    allocator.rest_since(ip_address("10.9.9.9"), 4)  # is nobody's
    assert texts(allocator.allocate("a", 6)) == ["10.0.1.4"]
    # Behind the highest first: those before it may be resting without our knowing.
    assert given_out(allocator, 2, 6) == ["10.0.1.5", "10.0.1.2"]
    with pytest.raises(ExhaustedError) as error:
        allocator.allocate("x", 6)
    assert error.value.until == 34
    assert texts(allocator.allocate("x", 34)) == ["10.0.1.3"]


def test_a_pod_is_known_before_its_range() -> None:
    allocator = Allocator()
    allocator.reserve("a", ip_address("10.0.1.2"))
    allocator.reserve("b", ip_address("10.0.1.1"))  # made when the range was another
    allocator.add(FOUR)
    assert given_out(allocator, 4) == ["10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"]
    allocator.release("b", 0)
    with pytest.raises(ExhaustedError):
        allocator.allocate("x", 1000)
    allocator.release("a", 1000)
    assert texts(allocator.allocate("x", 1030)) == ["10.0.1.2"]


def test_ranges_come_and_go() -> None:
    other = ip_network("10.0.2.0/30")
    allocator = Allocator([other])
    allocator.allocate("a", 0)
    allocator.add(FOUR)
    allocator.add(FOUR)
    assert texts(allocator.allocate("b", 0)) == ["10.0.1.2"]
    allocator.retire(other)
    allocator.release("a", 1)
    with pytest.raises(RangeInUseError, match="0 addresses are held, 1 rest") as error:
        allocator.remove(other, 2)
    assert error.value.until == 31
    with pytest.raises(RangeInUseError, match="1 addresses are held"):
        allocator.remove(FOUR, 2)
    allocator.allocate("c", 40)
    assert texts(allocator.held_by("c")) == ["10.0.1.3"]  # not the retired range's, though that would be free
    allocator.remove(other, 40)
    allocator.remove(other, 40)
    assert allocator.ranges == (FOUR,)


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"])
def test_too_small(text: str) -> None:
    with pytest.raises(InvalidError, match="at least 4"):
        Allocator([ip_network(text)])


def test_overlapping() -> None:
    with pytest.raises(InvalidError, match="overlaps"):
        Allocator([FOUR, ip_network("10.0.0.0/16")])


def test_a_large_range_is_neither_listed_nor_remembered() -> None:
    allocator = Allocator([ip_network("fd00::/64")], rest=1)
    start = time.perf_counter()
    for index in range(70_000):
        allocator.allocate("a", index)
        allocator.release("a", index)
    assert len(allocator._ranges[ip_network("fd00::/64")].released) <= (1 << 16) + 1
    allocator.reserve("b", ip_address("fd00::ffff:ffff:ffff:fffe"))  # the last: the search begins anew
    assert texts(allocator.allocate("c", 0)) == ["fd00::2"]
    assert time.perf_counter() - start < 10


def test_a_full_range_costs_little() -> None:
    allocator = Allocator([ip_network("10.0.0.0/16")])
    start = time.perf_counter()
    given_out(allocator, (1 << 16) - 3)
    for index in range(1000):
        allocator.release(f"o{index}", index)
    with pytest.raises(ExhaustedError):
        allocator.allocate("x", 0)
    assert time.perf_counter() - start < 10


RANGES = [ip_network(text) for text in ("10.0.1.0/29", "10.0.2.0/30", "fd00::/125", "fd01::/64")]
OWN = {address for network in RANGES for address in (network[0], network[1], network[-1])}
OWNERS = st.sampled_from([f"o{index}" for index in range(8)])


class AllocatorMachine(RuleBasedStateMachine):
    """Against a model that knows only who has what and what was released when."""

    addresses = Bundle[Address]("addresses")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator()
        self.now = 0.0
        self.held: dict[str, tuple[Address, ...]] = {}
        self.released: dict[Address, float] = {}

    @rule(network=st.sampled_from(RANGES))
    def add(self, network: Network) -> None:
        self.allocator.add(network)

    @rule(network=st.sampled_from(RANGES), retire=st.booleans())
    def remove(self, network: Network, retire: bool) -> None:
        if retire:
            self.allocator.retire(network)
        used = any(address in network for addresses in self.held.values() for address in addresses)
        used |= any(address in network and since + 30 > self.now for address, since in self.released.items())
        try:
            self.allocator.remove(network, self.now)
        except RangeInUseError:
            assert used
        else:
            assert not used or network not in self.allocator.ranges

    @rule(seconds=st.sampled_from([0.5, 10, 29.5, 31]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=addresses, owner=OWNERS)
    def allocate(self, owner: str) -> MultipleResults[Address]:
        before = self.allocator.owners()
        try:
            got = self.allocator.allocate(owner, self.now)
        except NoRangeError:
            assert not self.allocator.ranges
            return multiple()
        except ExhaustedError as error:
            assert self.allocator.owners() == before
            until = error.until
            assert until is None or until > self.now
            return multiple()
        if owner in self.held:
            assert got == self.held[owner]
            return multiple()
        for address in got:
            assert address not in OWN
            assert any(address in network for network in self.allocator.ranges)
            assert self.released.get(address, -1000) + 30 <= self.now
        assert len({address.version for address in got}) == len(got)
        assert {address.version for address in got} == {network.version for network in self.allocator.ranges}
        self.held[owner] = got
        return multiple(*got)

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        got = self.allocator.release(owner, self.now)
        assert got == self.held.pop(owner, ())
        for address in got:
            self.released[address] = self.now

    @rule(owner=OWNERS, address=consumes(addresses))
    def reserve(self, owner: str, address: Address) -> None:
        holders = [who for who, addresses in self.held.items() if address in addresses]
        try:
            self.allocator.reserve(owner, address)
        except HeldError:
            assert holders
            assert holders != [owner]
        else:
            assert holders in ([], [owner])
            self.held[owner] = self.allocator.held_by(owner)
            assert address in self.held[owner]

    @invariant()
    def nobody_shares(self) -> None:
        every = [address for owner in self.allocator.owners() for address in self.allocator.held_by(owner)]
        assert len(every) == len(set(every))
        assert {owner: self.allocator.held_by(owner) for owner in self.allocator.owners()} == self.held


AllocatorMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAllocator = AllocatorMachine.TestCase
