"""The groups `compiler` and `policies`: whom they make up, and which rows count as policy's."""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import policies
from bench.compiler import IDENTITIES as OF_COMPILER
from bench.compiler import SETS, World, labels_of
from bench.kernel import ROOT
from bench.policies import IDENTITIES, Rows, of_memory, rows_alone, rows_of, written
from pilus_agent.datapath.loader import describe
from pilus_agent.desired.policy.tables import Compiled, Endpoint
from pilus_api.labels import Label
from pilus_api.rules import AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope
from pilus_api.selectors import Selector, equals, selector
from pilus_maps import Datapath
from pilus_maps.layout import Layout


def test_every_identity_has_labels_of_its_own_and_one_more_has_too() -> None:
    assert len({labels_of(number) for number in range(IDENTITIES + 50)}) == IDENTITIES + 50


def test_the_compiler_group_has_the_sets_that_pods_share() -> None:
    assert OF_COMPILER == SETS
    assert labels_of(SETS - 1) == tuple(
        Label("k8s", key, value)
        for key, value in (("app", "app-49"), ("io.kubernetes.pod.namespace", "ns-59"), ("tier", "data"), ("version", "v4"))
    )
    assert not any(label.key == "unique" for number in range(SETS) for label in labels_of(number))


def app(number: int) -> Selector:
    return selector(equals("k8s", "app", f"app-{number}"))


def policy(name: str, subject: Selector, *peers: Peer) -> Policy:
    """Ingress by two ports."""
    origin = Origin("CiliumNetworkPolicy", "ns", name, f"uid-{name}", "spec")
    ports = (Ports(6, 80, 80), Ports(6, 443, 443))
    return Policy(origin, subject, (True, False), (Rule(origin, Direction.INGRESS, False, peers, ports),))


@pytest.fixture(scope="module")
def maps() -> dict[str, Any]:
    found: dict[str, Any] = describe(ROOT / "bpf", ROOT, {})[1]["maps"]
    return found


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    """60 identities are app-0, and 60 app-1. Of the endpoints three are app-0, with one policy, and one is app-1, with another."""
    outside = AddressPeer(ip_network("192.0.2.0/24"), (), Scope.OUTSIDE)
    world = World(120, 3)
    world.compiler.put_endpoint("other", Endpoint(labels_of(60), {}))
    world.full([policy("a", app(0), app(1), outside), policy("b", app(1), app(1))])
    return world.compiler.compiled()


def test_rows_of_every_table_count_and_each_has_its_layout(compiled: Compiled, maps: dict[str, Any]) -> None:
    """Peers are the 60 and this host, which has a port table of its own; so have the two ports, by both policies; and egress."""
    rows = rows_of(compiled, maps)
    assert {name: len(held) for name, held in rows.items()} == {"verdicts": 4, "peers": 2 * 61, "cidrs": 1, "policies": 2}
    for name, held in rows.items():
        sizes = {(len(key), len(value)) for key, value in held.items()}
        assert sizes == {(Layout(maps[name]["key"]).size, Layout(maps[name]["value"]).size)}


def test_with_one_table_an_endpoint_each_has_every_peers_ports(compiled: Compiled) -> None:
    """Two ports by peer and by prefix; the host's, and egress, are a row each."""
    assert rows_alone(compiled) == 3 * (2 * 61 + 2) + (2 * 60 + 2)


class Maps:
    """Maps that take so many bytes a row, beside those they take when they are empty."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], empty: int) -> None:
        self._names, self._sizes = list(sizes), sizes
        self.rows: dict[str, dict[bytes, bytes]] = {name: {} for name in sizes}
        monkeypatch.setattr(
            policies, "map_bytes", lambda fd: empty + self._sizes[self._names[fd]] * len(self.rows[self._names[fd]])
        )

    def map(self, name: str) -> Any:
        return SimpleNamespace(fd=self._names.index(name), update_raw=self.rows[name].update)


ROWS: Rows = {
    "verdicts": {bytes([number]): b"" for number in range(4)},
    "peers": {bytes([number]): b"" for number in range(10)},
    "policies": {b"1": b""},
}


def test_memory_is_what_the_kernel_says_that_maps_grow_by(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps(monkeypatch, {"verdicts": 64, "peers": 80, "policies": 120}, empty=1 << 20)
    taken = written(cast("Datapath", maps), ROWS)
    assert maps.rows == ROWS
    assert taken == {"verdicts": 256, "peers": 800, "policies": 120}
    rows, memory = of_memory("x", ROWS, taken, alone=100)
    assert (rows.value, rows.baseline, rows.note) == (15, 100, "verdicts 4, peers 10, policies 1")
    assert memory.value == pytest.approx(1176e-6)
    assert memory.baseline == pytest.approx(100 * 80e-6)
    assert "verdicts 64, peers 80, policies 120;" in memory.note


def test_a_map_that_is_allocated_ahead_says_nothing_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps(monkeypatch, {"verdicts": 64, "peers": 0, "policies": 120}, empty=1 << 20)
    with pytest.raises(ValueError, match="map peers has not grown by 10 rows"):
        written(cast("Datapath", maps), ROWS)
