"""Compiled policies as the kernel's records: what has changed since the last time, table by table.

In: what is compiled, and numbers that the kernel holds already. Out: changes of `verdicts`, `peers`, `cidrs` and `policies`. Pure;
a policy that did not change costs one comparison.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pilus_agent.bind.policy import number, recognise_tables
from pilus_agent.desired.addresses import raw
from pilus_agent.desired.policy.answers import NOTHING_ABOVE, Answer, Decision
from pilus_agent.desired.policy.porttable import PortRow, PortTable
from pilus_agent.desired.policy.tables import CompiledPolicy, PeerClass, PolicyName
from pilus_api.rules import Direction

Record = dict[str, Any]
Rows = dict[tuple[Any, ...], tuple[Record, Record]]

_CIDR_BITS: Final = 64  # of struct pilus_cidr_key before the address


@dataclass(frozen=True, slots=True)
class Change:
    """A row to be wanted; `value` None: wanted no more."""

    table: str
    key: Record | int
    value: Record | None


class PolicyRows:
    """Numbers by name, and the rows that were wanted last."""

    def __init__(self) -> None:
        self._policies: dict[bytes, int] = {}
        self._tables: dict[bytes, int] = {}
        self._classes: dict[bytes, int] = {}
        self._last = {"policies": 0, "tables": 0, "classes": 0}
        self._wanted: dict[PolicyName, CompiledPolicy] = {}
        self._rows: dict[PolicyName, dict[str, Rows]] = {}
        self._table_uses: dict[bytes, int] = {}
        self._contents: dict[bytes, PortTable] = {}

    def restore(
        self,
        policies: Iterable[tuple[int, Record]],
        verdicts: Iterable[tuple[Record, Record]],
        named: Iterable[tuple[Record, Record]],
    ) -> None:
        """What the kernel holds from an earlier agent: a policy is recognised by its hash, a port table by its rows. `named`: the
        rows of peers and cidrs. An agent that died may have left rows of a policy that has none itself: its number is not free."""
        rows, classes = list(policies), list(named)
        self._policies = {bytes(value["hash"]): key for key, value in rows}
        tables: dict[int, list[PortRow]] = {}
        for key, value in verdicts:
            answer = Answer(Decision(value["decision"]), value["precedence"], value["rule"])
            above = Answer(Decision(value["above"]), value["above_precedence"], value["above_rule"])
            row = PortRow(key["length"], key["protocol"], key["port"], answer, NOTHING_ABOVE if above == NOTHING_ABOVE else above)
            tables.setdefault(key["table"], []).append(row)
        # A table without rows is one too: it denies everything, and stands only where something names it.
        for table in {table for _, value in rows for table in value["table"]} | {value["table"] for _, value in classes}:
            tables.setdefault(table, [])
        self._tables = recognise_tables(tables)
        self._last["policies"] = max({*self._policies.values(), *(key["policy"] for key, _ in classes)}, default=0)
        self._last["tables"] = max(tables, default=0)

    def number_of(self, policy: bytes) -> int:
        return self._policies.get(policy, 0)

    def settle(self, wanted: Mapping[PolicyName, CompiledPolicy]) -> Iterator[Change]:
        """The changes that lead from what was wanted last to this."""
        for name in self._rows.keys() - wanted.keys():
            yield from self._replace(name, {})
            self._leave_tables(self._wanted.pop(name))
            del self._rows[name]
        changed = {name: policy for name, policy in wanted.items() if self._wanted.get(name) is not policy}
        if not changed:
            return
        self._number(changed.values())
        for name, policy in changed.items():
            before = self._wanted.get(name)
            yield from self._enter_tables(policy)
            yield from self._replace(name, self._rows_of(policy))
            if before is not None:
                self._leave_tables(before)
            self._wanted[name] = policy

    def unused_tables(self) -> Iterator[Change]:
        """Rows of port tables that nothing names any more; they go last."""
        for name in [name for name, uses in self._table_uses.items() if not uses]:
            del self._table_uses[name]
            table = self._contents.pop(name)
            for row in table.rows:
                yield Change("verdicts", self._verdict_key(self._tables[name], row), None)

    def swept(self) -> None:
        """The kernel holds nothing any more that is not wanted: numbers of what went may be forgotten."""
        self._policies = {name: held for name, held in self._policies.items() if name in self._wanted}
        self._tables = {name: held for name, held in self._tables.items() if name in self._table_uses}
        classes = {held.name for policy in self._wanted.values() for held in policy.classes().values()}
        self._classes = {name: held for name, held in self._classes.items() if name in classes}

    # -- numbers -----------------------------------------------------------------------------------------------------------

    def _number(self, policies: Iterable[CompiledPolicy]) -> None:
        found = list(policies)
        wanted = {
            "policies": {bytes(policy.name) for policy in found},
            "tables": {name for policy in found for name in policy.tables()},
            "classes": {bytes(name) for policy in found for name in policy.classes()},
        }
        for kind, held in (("policies", self._policies), ("tables", self._tables), ("classes", self._classes)):
            numbers = number(wanted[kind], held, self._last[kind])
            held.update(numbers.by_name)
            self._last[kind] = numbers.last

    def _enter_tables(self, policy: CompiledPolicy) -> Iterator[Change]:
        for name, table in policy.tables().items():
            uses = self._table_uses.get(name)
            self._table_uses[name] = (uses or 0) + 1
            if uses is None:
                self._contents[name] = table
                for row in table.rows:
                    value = {
                        "decision": int(row.answer.decision),
                        "precedence": int(row.answer.precedence),
                        "rule": row.answer.rule,
                        "above": int(row.above.decision),
                        "above_precedence": int(row.above.precedence),
                        "above_rule": row.above.rule,
                    }
                    yield Change("verdicts", self._verdict_key(self._tables[name], row), value)

    def _leave_tables(self, policy: CompiledPolicy) -> None:
        for name in policy.tables():
            self._table_uses[name] -= 1

    # -- rows --------------------------------------------------------------------------------------------------------------

    def _replace(self, name: PolicyName, rows: dict[str, Rows]) -> Iterator[Change]:
        before = self._rows.get(name, {})
        for table in ("peers", "cidrs", "policies"):
            old, new = before.get(table, {}), rows.get(table, {})
            for key in old.keys() - new.keys():
                yield Change(table, _bare(table, old[key][0]), None)
            for key, row in new.items():
                if old.get(key) != row:
                    yield Change(table, _bare(table, row[0]), row[1])
        self._rows[name] = rows

    def _rows_of(self, policy: CompiledPolicy) -> dict[str, Rows]:
        own = self._policies[policy.name]
        peers: Rows = {}
        cidrs: Rows = {}
        for direction in Direction:
            tables = policy.directions[direction]
            for identity, held in tables.peers.items():
                key = {"policy": own, "direction": int(direction), "identity": int(identity)}
                peers[int(direction), int(identity)] = key, self._class(held)
            for cidr, held in tables.cidrs.items():
                network = cidr.network
                where: Record = {
                    "length": _CIDR_BITS + network.prefixlen, "policy": own, "direction": int(direction), "scope": int(cidr.scope),
                    "family": network.version, "address": raw(network.network_address),
                }  # fmt: skip
                cidrs[int(direction), int(cidr.scope), network] = where, self._class(held)
        value = {
            "table": tuple(self._tables[tables.default.table.name] for tables in policy.directions),
            "class": tuple(self._classes[tables.default.name] for tables in policy.directions),
            "cidrs": tuple(len(tables.cidrs) for tables in policy.directions),
            "complete": 1,
            "closes": sum(1 << direction for direction in Direction if policy.directions[direction].enforced),
            "hash": bytes(policy.name),
        }
        return {"peers": peers, "cidrs": cidrs, "policies": {(): ({"": own}, value)}}

    def _class(self, held: PeerClass) -> Record:
        return {"table": self._tables[held.table.name], "number": self._classes[held.name]}

    @staticmethod
    def _verdict_key(table: int, row: PortRow) -> Record:
        return {"length": row.length, "table": table, "protocol": row.protocol, "port": row.port}


def _bare(table: str, key: Record) -> Record | int:
    return int(key[""]) if table == "policies" else key
