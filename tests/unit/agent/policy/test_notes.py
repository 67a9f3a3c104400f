"""What is noted of address rules that cover pods' addresses."""

from ipaddress import ip_network

import pytest

from pilus_agent.desired.policy.notes import PodRanges, notes
from pilus_api.policies import policies_of

RANGES = PodRanges(map(ip_network, ("10.1.1.0/24", "10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64")))


def noted(kind: str, spec: dict[str, object]) -> tuple[str, ...]:
    version, subject = ("networking.k8s.io/v1", "podSelector") if kind == "NetworkPolicy" else ("cilium.io/v2", "endpointSelector")
    metadata = {"name": "p"} if "Clusterwide" in kind else {"name": "p", "namespace": "n"}
    held = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {subject: {}} | spec}
    return notes(policies_of(held, cluster="blue"), RANGES)


@pytest.mark.parametrize(
    ("peers", "covered"),
    [
        ({"toCIDR": ["10.1.1.7"]}, "10.1.1.7/32 covers pods' addresses (10.1.0.0/23)"),
        ({"toCIDR": ["10.0.0.0/8"]}, "10.0.0.0/8 covers pods' addresses (10.1.0.0/23)"),
        ({"toCIDR": ["192.0.2.0/24", "fd00::/16"]}, "fd00::/16 covers pods' addresses (fd00:1::/64)"),
        ({"toCIDR": ["10.1.2.0/24", "10.0.255.255", "10.3.0.0/16"]}, ""),
        ({"toCIDR": ["0.0.0.0/0", "::/0"]}, ""),
        ({"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, "10.0.0.0/8 covers pods' addresses (10.2.0.0/24)"),
        ({"toCIDRSet": [{"cidr": "10.1.0.0/16", "except": ["10.1.0.0/24"]}]}, "10.1.0.0/16 covers pods' addresses (10.1.0.0/23)"),
        # Halves of an exception are one.
        ({"toCIDRSet": [{"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24", "10.1.0.0/24"]}]}, ""),
        ({"toCIDRSet": [{"cidr": "10.1.0.0/24", "except": ["10.1.0.0/24"]}]}, ""),
        ({"toEntities": ["all"]}, ""),
        ({"toEndpoints": [{}]}, ""),
        ({"toPorts": [{"ports": [{"port": "80"}]}]}, ""),
    ],
)
@pytest.mark.parametrize("section", ["egress", "egressDeny", "ingress"])
def test_of_an_element(peers: dict[str, object], covered: str, section: str) -> None:
    element = peers if section != "ingress" else {key.replace("toC", "fromC").replace("toE", "fromE"): peers[key] for key in peers}
    for kind in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"):
        found = noted(kind, {section: [{"fromEndpoints" if section == "ingress" else "toEndpoints": []}, element]})
        assert found == ((f"spec.{section}[1]: {covered}, and means no pod by them: name pods by labels",) if covered else ())


def test_an_ip_block_means_pods_and_is_not_noted() -> None:
    assert noted("NetworkPolicy", {"ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]}) == ()


def test_there_are_not_more_notes_than_anybody_reads() -> None:
    found = noted("CiliumNetworkPolicy", {"egress": [{"toCIDR": [f"10.1.0.{number}"] * 3} for number in range(40)]})
    assert len(found) == 11
    assert found[-1] == "and 30 more elements like these"
    assert all(len(note) <= 512 for note in found)
