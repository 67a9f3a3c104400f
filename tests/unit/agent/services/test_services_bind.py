"""Numbers and rows: a set is complete before it is named, keeps its number, and is known again after a restart."""

from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilus_agent.bind.policy_rows import Change
from pilus_agent.bind.services import ServiceRows, backend_rows, recognise_sets
from pilus_agent.desired.services import Backend, BackendSet, Frontend, State, ordered, set_name

WEB, API = Frontend(ip_address("10.96.0.1"), 80, 6), Frontend(ip_address("fd00:96::1"), 443, 6)


def backends(*lasts: int, state: State = State.ACTIVE) -> BackendSet:
    return ordered(Backend(ip_address(f"10.0.0.{last}"), 8080, state) for last in lasts)


class Kernel:
    """What the tables would hold, with a check at every write: no service names a set that is not whole."""

    def __init__(self) -> None:
        self.backends: dict[tuple[int, int], Any] = {}
        self.services: dict[tuple[Any, ...], Any] = {}
        self._removed: list[tuple[int, int]] = []

    def apply(self, changes: list[Change]) -> None:
        """In the agent's order: backends, services, then what goes; backends a second later, at `sweep`."""
        for change in changes:
            if change.table == "backends":
                key = (change.key["set"], change.key["slot"])  # type: ignore[index]
                if change.value is None:
                    self._removed.append(key)
                else:
                    self._removed = [held for held in self._removed if held != key]
                    assert self.backends.get(key, change.value) == change.value, "a set was changed"
                    self.backends[key] = change.value
        for change in changes:
            if change.table == "services":
                name = tuple(change.key.values())  # type: ignore[union-attr]
                if change.value is None:
                    del self.services[name]
                else:
                    self.services[name] = change.value
        self.check()

    def sweep(self) -> None:
        for key in self._removed:
            del self.backends[key]
        self._removed = []
        self.check()

    def check(self) -> None:
        for row in self.services.values():
            for slot in range(row["count"]):
                assert (row["set"], slot) in self.backends

    def rows(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [({"set": number, "slot": slot}, value) for (number, slot), value in self.backends.items()]


def settle(rows: ServiceRows, kernel: Kernel, changes: dict[Frontend, BackendSet | None]) -> list[Change]:
    found = list(rows.settle(changes))
    kernel.apply(found)
    return found


def test_a_set_comes_before_its_service() -> None:
    found = settle(ServiceRows(), Kernel(), {WEB: backends(1, 2)})
    assert [change.table for change in found] == ["backends", "backends", "services"]
    assert found[-1].value == {"own": found[-1].key, "set": 1, "count": 2}


def test_equal_backends_are_one_set() -> None:
    rows, kernel = ServiceRows(), Kernel()
    settle(rows, kernel, {WEB: backends(1)})
    found = settle(rows, kernel, {API: backends(1)})
    assert [change.table for change in found] == ["services"]
    assert settle(rows, kernel, {WEB: None}) == [Change("services", found_key(WEB), None)]
    assert {change.table for change in settle(rows, kernel, {API: None})} == {"services", "backends"}
    kernel.sweep()
    assert kernel.rows() == []


def found_key(frontend: Frontend) -> dict[str, Any]:
    return {"family": 4, "address": frontend.address.packed.ljust(16, b"\0"), "port": frontend.port, "protocol": frontend.protocol}


def test_other_backends_are_another_set() -> None:
    rows, kernel = ServiceRows(), Kernel()
    settle(rows, kernel, {WEB: backends(1)})
    settle(rows, kernel, {WEB: backends(1, 2)})
    assert {number for number, _ in kernel.backends} == {1, 2}
    kernel.sweep()
    rows.swept()
    assert {number for number, _ in kernel.backends} == {2}
    settle(rows, kernel, {WEB: backends(1)})  # the same as at first, whose number is gone by now
    assert {number for number, _ in kernel.backends} == {2, 3}


def test_a_set_that_comes_back_before_it_was_removed_keeps_its_number() -> None:
    rows, kernel = ServiceRows(), Kernel()
    settle(rows, kernel, {WEB: backends(1)})
    settle(rows, kernel, {WEB: backends(2)})
    found = settle(rows, kernel, {WEB: backends(1)})
    assert found[-1].value is None  # backends of the second set go
    assert next(change.value for change in found if change.table == "services")["set"] == 1  # type: ignore[index]


def test_no_backends_is_no_set() -> None:
    rows, kernel = ServiceRows(), Kernel()
    found = settle(rows, kernel, {WEB: ()})
    assert found == [Change("services", found_key(WEB), {"own": found_key(WEB), "set": 0, "count": 0})]
    settle(rows, kernel, {WEB: backends(1)})
    settle(rows, kernel, {WEB: ()})
    kernel.sweep()
    assert kernel.rows() == []


def test_a_restarted_agent_keeps_numbers() -> None:
    rows, kernel = ServiceRows(), Kernel()
    settle(rows, kernel, {WEB: backends(3)})
    settle(rows, kernel, {WEB: backends(1, 2)})
    settle(rows, kernel, {API: backends(4)})
    after = ServiceRows()
    after.restore(kernel.rows())
    settle(after, kernel, {WEB: backends(2, 1), API: backends(4, 5)})
    numbers = {tuple(name)[2]: row["set"] for name, row in kernel.services.items()}
    assert numbers == {80: 2, 443: 4}  # 443 had 3; 4 is the first that nobody ever had


def test_a_set_that_was_never_finished_is_nobodys() -> None:
    whole = [(dict(key), dict(value)) for key, value in backend_rows(7, backends(1, 2, 3))]
    assert recognise_sets(whole) == {set_name(backends(1, 2, 3)): 7}
    assert set_name(backends(1, 2, 3)) not in recognise_sets(whole[:2])
    assert recognise_sets(whole[1:]) == {}
    after = ServiceRows()
    after.restore(whole[1:])
    found = list(after.settle({WEB: backends(1, 2, 3)}))
    assert found[-1].value["set"] == 8  # type: ignore[index]


def test_both_families_are_known_again() -> None:
    six = ordered([Backend(ip_address("fd00::1"), 80), Backend(ip_address("fd00::2"), 80, State.TERMINATING)])
    assert recognise_sets([(dict(key), dict(value)) for key, value in backend_rows(1, six)]) == {set_name(six): 1}


sets = st.lists(st.integers(1, 4), max_size=3, unique=True).map(lambda lasts: backends(*lasts))
moves = st.dictionaries(st.sampled_from([WEB, API, Frontend(ip_address("10.96.0.1"))]), st.none() | sets, max_size=3)


@given(st.lists(st.tuples(moves, st.sampled_from(["", "sweep", "restart"])), max_size=10))
def test_every_state_is_whole_on_every_road(steps: list[tuple[dict[Frontend, BackendSet | None], str]]) -> None:
    rows, kernel = ServiceRows(), Kernel()
    wanted: dict[Frontend, BackendSet] = {}
    for changes, then in steps:
        real = {key: value for key, value in changes.items() if value is not None or key in wanted}
        settle(rows, kernel, real)
        wanted = {key: value for key, value in (wanted | real).items() if value is not None}
        if then == "sweep":
            kernel.sweep()
            rows.swept()
        elif then == "restart":
            kernel.sweep()
            rows = ServiceRows()
            rows.restore(kernel.rows())
            settle(rows, kernel, dict(wanted))
    assert len(kernel.services) == len(wanted)
    kernel.sweep()
    assert recognise_sets(kernel.rows()).keys() == {set_name(value) for value in wanted.values() if value}
    want = rows.rows()
    assert sorted((key["set"], key["slot"]) for key, _ in want["backends"]) == sorted(kernel.backends)
    assert {tuple(key.values()): value for key, value in want["services"]} == kernel.services
