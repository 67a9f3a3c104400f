"""What wiring and `pilus` ask about Services."""

from ipaddress import ip_address

import pytest
from tests.unit.agent.fakes import described

from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_agent.service_stage import ServiceStage
from pilus_agent.tables import Tables

PORTS = (ServicePort("dns", 17, 53), ServicePort("dns-tcp", 6, 53))
DNS = Service("kube-system", "kube-dns", "ClusterIP", (ip_address("10.96.0.10"),), PORTS, affinity=True)
SLICE = EndpointSlice(
    "kube-system/kube-dns",
    (ServicePort("dns", 17, 5353), ServicePort("dns-tcp", 6, 5353)),
    (ServiceEndpoint(ip_address("10.0.0.2")), ServiceEndpoint(ip_address("10.0.0.1"))),
)


def full() -> ServiceStage:
    stage = ServiceStage("n1")
    stage.put("endpointslices", "kube-system/kube-dns-x", SLICE)
    stage.put("services", "kube-system/kube-dns", DNS)
    return stage


@pytest.fixture
def tables() -> Tables:
    return Tables.of(described()["maps"])


def test_rows_reach_the_tables(tables: Tables) -> None:
    stage = full()
    stage.settle(tables)
    services, backends = tables.trackers["services"].updates, tables.trackers["backends"].updates
    assert len(services) == 3  # two ports, and every other port
    assert len(backends) == 2  # one set: both ports lead to the same
    for key, value in (*services.items(), *backends.items()):
        assert value.startswith(key)
    dns = next(value for key, value in services.items() if key[20:23] == bytes([0, 53, 17]))
    assert int.from_bytes(dns[36:40], "little") == 2
    assert {name: len(rows) for name, rows in stage.rows().items()} == {"backends": 2, "services": 3}


def test_nothing_new_changes_nothing(tables: Tables) -> None:
    stage = full()
    stage.settle(tables)
    for tracker in tables.trackers.values():
        tracker.wrote(dict(tracker.updates))
    stage.put("services", "kube-system/kube-dns", DNS)
    stage.settle(tables)
    assert all(tracker.settled for tracker in tables.trackers.values())


def test_what_pilus_shows(tables: Tables) -> None:
    stage = full()
    stage.settle(tables)
    assert stage.views() == [
        {
            "namespace": "kube-system",
            "name": "kube-dns",
            "type": "ClusterIP",
            "frontends": [
                {"address": "10.96.0.10", "port": 53, "protocol": "UDP"},
                {"address": "10.96.0.10", "port": 53, "protocol": "TCP"},
            ],
            "backends": [
                {"address": "10.0.0.1", "port": 5353, "state": "active"},
                {"address": "10.0.0.2", "port": 5353, "state": "active"},
            ],
        }
    ]


def test_what_is_not_kept_is_said() -> None:
    assert full().unenforced() == ["kube-system/kube-dns"]


def test_another_kind_is_an_error() -> None:
    with pytest.raises(KeyError):
        full().put("pods", "x", None)
