"""What the API server's objects say, as facts: defaults, nonsense, and what is left out."""

from ipaddress import ip_address
from typing import Any

import pytest

from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_agent.sources.services import KINDS, endpoint_slice_of, service_of
from pilus_api.labels import Label


def service(**spec: Any) -> Service:
    return service_of({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})


def slice_of(*endpoints: dict[str, Any], **fields: Any) -> EndpointSlice:
    labels = {"kubernetes.io/service-name": "web"}
    raw = {"metadata": {"namespace": "default", "name": "web-x", "labels": labels}, "addressType": "IPv4", "endpoints": endpoints}
    return endpoint_slice_of(raw | fields)


def test_a_service() -> None:
    found = service(
        clusterIP="10.96.0.10",
        clusterIPs=["10.96.0.10", "fd00:96::10"],
        ports=[{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}, {"port": 80}],
    )
    assert found == Service(
        "default",
        "web",
        "ClusterIP",
        (ip_address("10.96.0.10"), ip_address("fd00:96::10")),
        (ServicePort("dns", 17, 53), ServicePort("", 6, 80)),
        selects=False,
    )


@pytest.mark.parametrize(
    ("spec", "addresses"),
    [
        ({"clusterIP": "10.96.0.10"}, ["10.96.0.10"]),  # an object older than clusterIPs
        ({"clusterIP": "None", "clusterIPs": ["None"]}, []),
        ({"clusterIP": ""}, []),
        ({}, []),
        ({"type": "ExternalName", "externalName": "example.com"}, []),
        ({"type": "ExternalName", "clusterIP": "10.96.0.10"}, []),
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}, ["10.96.0.10"]),
        ({"clusterIPs": ["10.96.0.999", "10.96.0.11"]}, ["10.96.0.11"]),
    ],
)
def test_cluster_addresses(spec: dict[str, Any], addresses: list[str]) -> None:
    assert [str(address) for address in service(**spec).addresses] == addresses


def test_who_selects_pods_and_how_it_is_labelled() -> None:
    assert service(selector={"app": "web"}).selects
    assert not service(selector={}).selects
    raw = {"metadata": {"namespace": "default", "name": "web", "labels": {"b": "2", "a": "1"}}, "spec": {}}
    assert service_of(raw).labels == (Label("k8s", "a", "1"), Label("k8s", "b", "2"))


@pytest.mark.parametrize(
    "entry", [{"port": 0}, {"port": 65536}, {"port": "http"}, {"port": None}, {}, {"port": 80, "protocol": "DCCP"}]
)
def test_a_port_that_makes_no_sense_is_left_out(entry: dict[str, Any]) -> None:
    assert service(ports=[entry, {"port": 81}]).ports == (ServicePort("", 6, 81),)


def test_what_is_not_kept_is_noticed() -> None:
    assert service(sessionAffinity="ClientIP").affinity
    assert not service(sessionAffinity="None").affinity
    assert service(internalTrafficPolicy="Local").local_only
    assert not service(internalTrafficPolicy="Cluster").local_only


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": None, "serving": None, "terminating": None}, True, True, False),  # unknown means yes, says the API
        ({"ready": True, "serving": True, "terminating": False}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": True, "serving": False}, True, False, False),  # publishNotReadyAddresses
    ],
)
def test_conditions(conditions: dict[str, Any] | None, ready: bool, serving: bool, terminating: bool) -> None:
    found = slice_of({"addresses": ["10.0.0.1", "10.0.0.2"], "conditions": conditions, "nodeName": "n1"})
    others = (ip_address("10.0.0.2"),)
    assert found.endpoints == (ServiceEndpoint(ip_address("10.0.0.1"), ready, serving, terminating, "n1", others),)


def test_a_slice_of_names_has_no_endpoints() -> None:
    assert slice_of({"addresses": ["example.com"]}, addressType="FQDN").endpoints == ()


@pytest.mark.parametrize("entry", [{}, {"addresses": []}, {"addresses": ["nonsense"]}])
def test_an_endpoint_without_an_address_is_left_out(entry: dict[str, Any]) -> None:
    assert slice_of(entry).endpoints == ()


def test_a_slice_belongs_to_the_service_of_its_label() -> None:
    assert slice_of().service == "default/web"
    assert endpoint_slice_of({"metadata": {"namespace": "default", "name": "x"}}).service == ""


def test_ports_of_a_slice() -> None:
    found = slice_of(ports=[{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "any", "port": None}])
    assert found.ports == (ServicePort("", 6, 8080),)
    assert slice_of(ports=None).ports == ()


def test_kinds() -> None:
    assert [kind.name for kind in KINDS] == ["services", "endpointslices"]
