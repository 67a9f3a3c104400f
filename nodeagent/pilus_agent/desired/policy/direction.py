"""One direction of one rule set, kept up to date as identities come and go.

In: the rules, and which identities which selectors mean. Out: DirectionTables, a new one when something changed. Never: which
endpoints have the rule set.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from pilus_agent.desired.policy.addresses import address_rows
from pilus_agent.desired.policy.classes import partition
from pilus_agent.desired.policy.porttable import HOST_TABLE, Grant, PortTable, build
from pilus_agent.desired.policy.ruleset import DirectionRules, Resolution, RuleSet, resolve
from pilus_agent.desired.policy.tables import (
    MOST_ROWS,
    MOST_RULES,
    CidrKey,
    ClassName,
    DirectionTables,
    NamedPorts,
    PeerClass,
    TooMuchError,
)
from pilus_agent.desired.selectors import SelectorIndex, bits_of
from pilus_api.identities import HOST, Identity
from pilus_api.rules import Direction
from pilus_api.selectors import Selector

NO_NAMES: Final[NamedPorts] = {}

_ClassKey = tuple[int, Resolution]


class LiveDirection:
    """Rows of peers by identity, and the classes they share. Raises TooMuchError, and is of no use afterwards."""

    def __init__(self, rules: RuleSet, direction: Direction) -> None:
        self._set = rules
        self._direction = direction
        self._rules: DirectionRules = rules.directions[direction]
        self._by_number = {rule.rule: rule for rule in self._rules.rules}
        self._anyone = sum(1 << rule.rule for rule in self._rules.anyone)
        self._of_selector = {selector: sum(1 << rule.rule for rule in meant) for selector, meant in self._rules.by_selector}
        # Of egress, what a name means is the peer's affair; of ingress it is known with the rule set.
        named = {rule.rule: rule.names() for rule in self._rules.rules if direction is Direction.EGRESS and rule.names()}
        self._named: dict[int, frozenset[str]] = named
        self._named_bits = sum(1 << rule for rule in named)
        self._own_ports: Resolution = rules.own_ports if direction is Direction.INGRESS else ()
        self._grants: dict[int, Grant] = {}
        self._classes: dict[_ClassKey, PeerClass] = {}
        self._key: dict[Identity, _ClassKey] = {}
        self._peers: dict[Identity, PeerClass] = {}
        self._uses: dict[_ClassKey, int] = {}
        self._table_uses: dict[bytes, int] = {}
        self._table_rows = 0
        self._rules_in_classes = 0
        self._published: DirectionTables | None = None
        self._default = self._class((0, ()))
        self._cidrs = self._address_classes()
        self._use_table(self._default.table)
        for cidr_class in self._cidrs.values():
            self._use_table(cidr_class.table)
        if direction is Direction.INGRESS:
            self._peers[HOST] = PeerClass(self._class_name(b"host", 0, ()), (), HOST_TABLE)
            self._use_table(HOST_TABLE)

    @property
    def selectors(self) -> Iterable[Selector]:
        return self._of_selector

    @property
    def names_for_anyone(self) -> bool:
        """Whether an identity may need a row that no selector selects, for what it calls its ports."""
        return bool(self._named_bits & self._anyone)

    @property
    def rows(self) -> int:
        return len(self._peers) + len(self._cidrs) + self._table_rows

    def fill(self, index: SelectorIndex[Identity], named_ports: Mapping[Identity, NamedPorts]) -> None:
        """Every identity at once, into empty tables."""
        selected = ((rules, index.select(selector)) for selector, rules in self._of_selector.items())
        for number, rules in partition(selected).items():
            identity = index.member(number)
            self._put(identity, rules, named_ports.get(identity, NO_NAMES))
        if self.names_for_anyone:
            for identity, names in named_ports.items():
                if identity in index and identity not in self._key:
                    self._put(identity, 0, names)

    def refresh(self, identity: Identity, selectors: Iterable[Selector] | None, names: NamedPorts) -> None:
        """One identity, with the selectors that select it now; None: it is gone."""
        if selectors is None:
            self._drop(identity)
            return
        rules = 0
        for selector in selectors:
            rules |= self._of_selector.get(selector, 0)
        self._put(identity, rules, names)

    def tables(self) -> DirectionTables:
        if self._published is None:
            self._published = DirectionTables(
                self._rules.default_deny, self._rules.enforced, self._default, dict(self._peers), self._cidrs
            )
        return self._published

    def _put(self, identity: Identity, rules: int, names: NamedPorts) -> None:
        if identity == HOST and self._direction is Direction.INGRESS:
            return
        resolution: Resolution = ()
        if names and (meant := (rules | self._anyone) & self._named_bits):
            resolution = resolve((name for rule in bits_of(meant) for name in self._named[rule]), names)
        key = rules, resolution
        if self._key.get(identity, (0, ())) == key:
            return
        self._drop(identity)
        if key == (0, ()):
            return  # the default class
        peer_class = self._class(key)
        self._key[identity] = key
        self._peers[identity] = peer_class
        uses = self._uses.get(key, 0)
        self._uses[key] = uses + 1
        if not uses:
            self._use_table(peer_class.table)
        self._published = None

    def _drop(self, identity: Identity) -> None:
        key = self._key.pop(identity, None)
        if key is None:
            return
        del self._peers[identity]
        self._uses[key] -= 1
        if not self._uses[key]:
            del self._uses[key]
            gone = self._classes.pop(key)
            self._rules_in_classes -= len(gone.rules)
            self._unuse_table(gone.table)
        self._published = None

    def _class(self, key: _ClassKey) -> PeerClass:
        found = self._classes.get(key)
        if found is None:
            rules, resolution = key
            numbers = tuple(bits_of(rules | self._anyone))
            self._bear(len(numbers))
            table = build([self._grant(number, resolution) for number in numbers], self._rules.default_deny)
            found = self._classes[key] = PeerClass(self._class_name(b"peers", rules, resolution), numbers, table)
        return found

    def _grant(self, number: int, resolution: Resolution) -> Grant:
        if resolution:
            return self._by_number[number].grant(resolution)
        found = self._grants.get(number)
        if found is None:
            found = self._grants[number] = self._by_number[number].grant(self._own_ports)
        return found

    def _address_classes(self) -> dict[CidrKey, PeerClass]:
        """Only the address rules: the other ones answer in the table of who the peer is."""
        unknown = self._direction is Direction.EGRESS
        memo: dict[int, PeerClass] = {}
        found: dict[CidrKey, PeerClass] = {}
        for key, rules in address_rows((peer, rule.rule) for peer, rule in self._rules.by_address).items():
            if rules not in memo:
                numbers = tuple(bits_of(rules))
                self._bear(len(numbers))
                grants = [self._by_number[number].grant(self._own_ports, unknown_denies=unknown) for number in numbers]
                table = build(grants, self._rules.default_deny)
                memo[rules] = PeerClass(self._class_name(b"cidrs", rules, ()), numbers, table)
            found[key] = memo[rules]
        return found

    def _bear(self, rules: int) -> None:
        """One class more, with so many rules."""
        self._rules_in_classes += rules
        if self._rules_in_classes > MOST_RULES or self._table_rows > MOST_ROWS:
            raise TooMuchError

    def _class_name(self, kind: bytes, rules: int, resolution: Resolution) -> ClassName:
        content = b"%s %d %s %x %s" % (self._set.name, self._direction, kind, rules, repr(resolution).encode())
        return ClassName(blake2b(content, digest_size=16).digest())

    def _use_table(self, table: PortTable) -> None:
        uses = self._table_uses.get(table.name, 0)
        self._table_uses[table.name] = uses + 1
        if not uses:
            self._table_rows += len(table.rows)

    def _unuse_table(self, table: PortTable) -> None:
        self._table_uses[table.name] -= 1
        if not self._table_uses[table.name]:
            del self._table_uses[table.name]
            self._table_rows -= len(table.rows)
