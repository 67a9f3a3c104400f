"""Which pod has which address of this node's ranges.

In: the ranges, owners' requests, what the last agent's pods hold, and the time (seconds, of any clock that does not go back).
Out: addresses, one of each IP version that has a range. Keeps everything in memory: attachments on disk say at a restart who
holds what. Touches no kernel, no clock, no network.

An address rests after its release, because other nodes learn late whose it is. Never given to a pod: a range's first address
(the network's), its second (this node's own, the router) and its last (the broadcast address).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pilus_agent.facts import Address, Network
from pilus_api.errors import InvalidError, PilusError, TemporaryError

REST: Final = 30.0  # seconds
_REMEMBERED: Final = 1 << 16  # released addresses of one range; no IPv4 range that a node gets has more


class NoRangeError(TemporaryError):
    """There is no range to take an address from."""

    def __init__(self) -> None:
        super().__init__("this node has no pod range yet: does the operator run, and has it ranges left?")


class ExhaustedError(TemporaryError):
    """Every address of an IP version is held or rests. `until` is when the next has rested, None if none rests."""

    def __init__(self, version: int, held: int, resting: int, until: float | None, now: float) -> None:
        rest = f"{resting} rest after a pod's end, the first for {until - now:.0f} s more" if until is not None else "none rests"
        super().__init__(f"no IPv{version} address is left on this node: {held} are held, {rest}")
        self.version, self.held, self.resting, self.until = version, held, resting, until


class HeldError(PilusError):
    """The address is another's, or is not a pod's to have."""


class RangeInUseError(TemporaryError):
    """A range with addresses that are held or rest can't be given up. `until` is when the last has rested."""

    def __init__(self, network: Network, held: int, resting: int, until: float | None) -> None:
        super().__init__(f"the range {network} is in use: {held} addresses are held, {resting} rest")
        self.network, self.held, self.resting, self.until = network, held, resting, until


@dataclass(slots=True)
class _Range:
    """Addresses as numbers, since a range may have 2^64 of them. What is in neither `held` nor `released` has not been given
    for the longest time; `cursor` goes round in search of those."""

    network: Network
    held: set[int] = field(default_factory=set)
    released: dict[int, float] = field(default_factory=dict)  # when; in that order
    retired: bool = False
    cursor: int = 0

    @property
    def first(self) -> int:
        return int(self.network.network_address) + 2

    @property
    def last(self) -> int:
        return int(self.network.broadcast_address) - 1

    def usable(self, number: int) -> bool:
        return self.first <= number <= self.last

    @property
    def fresh(self) -> int:
        return self.last - self.first + 1 - len(self.held) - len(self.released)

    def take_fresh(self) -> int:
        """The next in the circle; `fresh` must not be 0. Looks at no more than are held and remembered."""
        number = max(self.cursor, self.first)
        while number in self.held or number in self.released or number > self.last:
            number = number + 1 if number < self.last else self.first
        self.hold(number)
        return number

    def hold(self, number: int) -> None:
        self.released.pop(number, None)
        self.held.add(number)
        self.cursor = max(self.cursor, number + 1) if self.cursor <= self.last else number + 1

    def release(self, number: int, now: float) -> None:
        self.held.discard(number)
        self.released.pop(number, None)
        self.released[number] = now

    def forget(self, before: float) -> None:
        """Drop what is rested of the remembered, beyond what a range that comes round will ever need."""
        while len(self.released) > _REMEMBERED:
            number, since = next(iter(self.released.items()))
            if since > before:
                return
            del self.released[number]


class Allocator:
    """`rest`, in seconds, may be changed at any time: it also counts for what rests already."""

    def __init__(self, ranges: Iterable[Network] = (), rest: float = REST) -> None:
        self.rest = rest
        self._ranges: dict[Network, _Range] = {}
        self._owners: dict[str, dict[Address, None]] = {}  # as an ordered set
        self._holders: dict[Address, str] = {}
        self._early: dict[Address, float] = {}  # released, and of a range that is not known yet
        for network in ranges:
            self.add(network)

    # -- ranges ----------------------------------------------------------------------------------------------------------

    def add(self, network: Network) -> None:
        """Idempotent; takes a retired range back into use. Raises InvalidError if it is too small or overlaps another."""
        if network in self._ranges:
            self._ranges[network].retired = False
            return
        if network.max_prefixlen - network.prefixlen < 2:
            raise InvalidError(f"the pod range {network} has no address for a pod: it needs at least 4")
        for other in self._ranges:
            if other.version == network.version and other.overlaps(network):
                raise InvalidError(f"the pod range {network} overlaps {other}, which this node has too")
        added = _Range(network)
        for address in self._holders:
            if address in network and added.usable(int(address)):
                added.hold(int(address))
        self._ranges[network] = added
        for address in [address for address in self._early if address in network]:
            self.rest_since(address, self._early.pop(address))

    def retire(self, network: Network) -> None:
        """Give nothing out of it any more, so that it gets empty. Idempotent."""
        if network in self._ranges:
            self._ranges[network].retired = True

    def remove(self, network: Network, now: float) -> None:
        """Idempotent. Raises RangeInUseError."""
        found = self._ranges.get(network)
        if found is None:
            return
        resting = [since + self.rest for since in found.released.values() if since + self.rest > now]
        if found.held or resting:
            raise RangeInUseError(network, len(found.held), len(resting), max(resting, default=None))
        del self._ranges[network]

    @property
    def ranges(self) -> tuple[Network, ...]:
        return tuple(self._ranges)

    def routers(self) -> dict[Network, Address]:
        """This node's own address in each range (CiliumInternalIP)."""
        return {network: network.network_address + 1 for network in self._ranges}

    # -- addresses -------------------------------------------------------------------------------------------------------

    def allocate(self, owner: str, now: float) -> tuple[Address, ...]:
        """What the owner holds already; else one address of each IP version that has a range, IPv4 first. All or nothing.
        Raises NoRangeError or ExhaustedError."""
        if owner in self._owners:
            return self.held_by(owner)
        versions = sorted({network.version for network in self._ranges})
        if not versions:
            raise NoRangeError
        found = [self._find(version, now) for version in versions]
        for one in found:
            one.forget(now - self.rest)
        taken = []
        for one in found:
            number = one.take_fresh() if one.fresh > 0 else next(iter(one.released))
            one.hold(number)
            taken.append(_address(number, one.network.version))
        for address in taken:
            self._own(owner, address)
        return tuple(taken)

    def _find(self, version: int, now: float) -> _Range:
        """The range to take from: the first with an address that was not given before, else the one whose address was
        released first."""
        ranges = [one for one in self._ranges.values() if one.network.version == version]
        open_ranges = [one for one in ranges if not one.retired]
        for one in open_ranges:
            if one.fresh > 0:
                return one
        heads = [(next(iter(one.released.values())), one) for one in open_ranges if one.released]
        since, oldest = min(heads, key=lambda head: head[0], default=(now, None))
        if oldest is not None and since + self.rest <= now:
            return oldest
        resting = sum(len(one.released) for one in open_ranges)
        until = since + self.rest if oldest is not None else None
        raise ExhaustedError(version, sum(len(one.held) for one in ranges), resting, until, now)

    def reserve(self, owner: str, address: Address) -> None:
        """The owner holds it already, as a restart finds out; also out of a range that is not known yet. Idempotent. Raises
        HeldError if it is another's, or is no pod's to have."""
        holder = self._holders.get(address, owner)
        if holder != owner:
            raise HeldError(f"{owner} can't have {address}: {holder} holds it. Delete one of the two pods")
        within = self._range_of(address)
        if within is not None:
            if not within.usable(int(address)):
                raise HeldError(f"{owner} can't have {address}: in {within.network} it is this node's own. Delete the pod")
            within.hold(int(address))
        self._own(owner, address)

    def rest_since(self, address: Address, since: float) -> None:
        """It was released before this agent started; also out of a range that is not known yet. Does nothing if it is held."""
        within = self._range_of(address)
        if within is None:
            self._early[address] = since
        elif address not in self._holders and within.usable(int(address)):
            within.release(int(address), since)
            within.released = dict(sorted(within.released.items(), key=lambda one: one[1]))

    def release(self, owner: str, now: float) -> tuple[Address, ...]:
        """What it held, which rests from now on. Idempotent."""
        addresses = self.held_by(owner)
        self._owners.pop(owner, None)
        for address in addresses:
            del self._holders[address]
            within = self._range_of(address)
            if within is not None and int(address) in within.held:
                within.release(int(address), now)
        return addresses

    def held_by(self, owner: str) -> tuple[Address, ...]:
        return tuple(sorted(self._owners.get(owner, ()), key=lambda address: (address.version, int(address))))

    def owners(self) -> tuple[str, ...]:
        return tuple(self._owners)

    def resting(self, now: float) -> dict[Address, float]:
        """Those that rest, and since when."""
        return dict(self._resting(now))

    def _resting(self, now: float) -> Iterator[tuple[Address, float]]:
        for one in self._ranges.values():
            for number, since in one.released.items():
                if since + self.rest > now:
                    yield _address(number, one.network.version), since

    def _own(self, owner: str, address: Address) -> None:
        self._owners.setdefault(owner, {})[address] = None
        self._holders[address] = owner

    def _range_of(self, address: Address) -> _Range | None:
        return next((one for network, one in self._ranges.items() if address in network), None)


def _address(number: int, version: int) -> Address:
    # Not ip_address: a small number would become an IPv4 address.
    return IPv4Address(number) if version == 4 else IPv6Address(number)
