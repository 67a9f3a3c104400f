"""A wiring with two nodes and three pods on a fake kernel, and what its rows mean, taken together."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from tests.unit.agent.fakes import (
    FakeKernel,
    Rows,
    World,
    Write,
    decoded,
    pod,
    remote,
)

WEB, API, DATA = pod("web", app="web"), pod("api", app="api"), pod("data", app="data")


def populated(kernel: FakeKernel, *, synced: bool = True, **settings: Any) -> World:
    """Two nodes, two pods here, one there."""
    world = World(kernel, **settings)
    world.begin()
    for number, one in ((300, WEB), (301, API), (302, DATA)):
        world.identity(number, one)
    world.pod(1, WEB)
    world.pod(2, API)
    world.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
    if synced:
        world.sync()
    return world


def meaning(world: World, rows: Rows) -> dict[str, dict[str, Any]]:
    """Every endpoint with its policy by content: numbers may differ from one agent to the next."""
    tables = {table: decoded(world.tables, rows, table) for table in ("endpoints", "policies", "peers", "cidrs", "verdicts")}
    verdicts: dict[int, set[tuple[Any, ...]]] = {}
    for key, value in tables["verdicts"]:
        verdicts.setdefault(key["table"], set()).add(
            (key["length"], key["protocol"], key["port"], value["decision"], value["precedence"])
        )
    policies = {}
    for number, value in tables["policies"]:
        named = {(key["direction"], key["identity"]): one["table"] for key, one in tables["peers"] if key["policy"] == number}
        policies[number] = {
            "hash": value["hash"], "complete": value["complete"],
            "default": [frozenset(verdicts.get(table, ())) for table in value["table"]],
            "peers": {who: frozenset(verdicts.get(table, ())) for who, table in named.items()},
            "cidrs": [sum(key["policy"] == number and key["direction"] == side for key, _ in tables["cidrs"]) for side in (0, 1)],
            "declared": list(value["cidrs"]),
        }  # fmt: skip
    found = {}
    for key, value in tables["endpoints"]:
        held = {name: value[name] for name in ("identity", "flags", "number", "ifindex")}
        held["policy"] = policies.get(value["policy"], "MISSING") if value["policy"] else None
        found[".".join(map(str, key["address"][:4]))] = held
    return found


class Whole:
    """Checks prefixes: a policy that an endpoint points at is, in content, what its hash has been at the end of some pass."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.whole: dict[bytes, list[dict[str, Any]]] = {}

    def learn(self, rows: Rows) -> None:
        for held in meaning(self._world, rows).values():
            if held["policy"]:
                assert held["policy"] != "MISSING"
                self.whole.setdefault(held["policy"]["hash"], []).append(held["policy"])

    def check(self, rows: Rows) -> None:
        known = {key for key, _ in decoded(self._world.tables, rows, "identities")}
        for address, held in meaning(self._world, rows).items():
            enforced = held["flags"] & 3
            if not enforced and held["policy"] is None:
                continue
            assert held["policy"] not in (None, "MISSING"), f"{address} points at a policy that is not there"
            policy = held["policy"]
            assert policy["complete"] == 1
            assert policy["cidrs"] >= policy["declared"], f"{address}: address rules are missing"
            assert any(self._same(policy, whole, known) for whole in self.whole[policy["hash"]]), (
                f"{address} is judged by a policy of which rows are missing"
            )

    @staticmethod
    def _same(policy: dict[str, Any], whole: dict[str, Any], known: set[int]) -> bool:
        """The same to every identity that packets are judged for."""

        def answer(one: dict[str, Any], side: int, who: int) -> Any:
            return one["peers"].get((side, who), one["default"][side])

        return all(answer(policy, side, who) == answer(whole, side, who) for side in (0, 1) for who in known)


def prefixes(start: Rows, log: list[Write]) -> Iterator[Rows]:
    rows = deepcopy(start)
    yield rows
    for one in log:
        if one.value is None:
            del rows[one.table][one.key]
        else:
            rows[one.table][one.key] = one.value
        yield rows
