"""Peers that are, or may be, addresses outside the cluster: parts of the outside, API servers, groups."""

from ipaddress import ip_network

import pytest
from tests.unit.api.policy_texts import peer, policy, rule, word

from pilus_api.policies import drafts_of, groups_of, resolve
from pilus_api.rules import ApiServers, CidrGroup, GroupName, Network, OtherNodes

V4, V6, SERVER = "0.0.0.0/0 OUTSIDE", "::/0 OUTSIDE", "192.0.2.1/32 OUTSIDE"


@pytest.mark.parametrize("section", ["ingress", "ingressDeny", "egress", "egressDeny"])
@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        *(
            (f"{{matchLabels: {labels}}}", expected)
            for labels, expected in [
                ("{'reserved:world-ipv4': ''}", [V4]),
                ("{'reserved:world-ipv6': ''}", [V6]),
                ("{'reserved:world-ipv4': '', 'reserved:world': ''}", [V4]),
                # These two nobody has, and so it stays a selector.
                ("{'reserved:world-ipv4': '', 'reserved:world-ipv6': ''}", ["reserved:world-ipv4= & reserved:world-ipv6="]),
                ("{'reserved:world-ipv4': '', app: web}", ["any:app=web & reserved:world-ipv4="]),
                ("{'reserved:world': ''}", ["reserved:world="]),
                ("{'reserved:kube-apiserver': ''}", ["reserved:kube-apiserver=", SERVER]),
                ("{'reserved:kube-apiserver': '', 'reserved:world': ''}", [SERVER]),
                ("{'reserved:kube-apiserver': '', 'reserved:world-ipv4': ''}", [SERVER]),
                ("{'reserved:kube-apiserver': '', 'reserved:remote-node': ''}",
                 ["reserved:kube-apiserver= & reserved:remote-node="]),
            ]
        ),
        *((word("kube-apiserver", operator), [held, SERVER])
          for operator, held in [("Exists", "reserved:kube-apiserver"), ("In", "reserved:kube-apiserver=")]),
        *((word("world-ipv4", operator), [f"!reserved:world & {held}", V6])
          for operator, held in [("DoesNotExist", "!reserved:world-ipv4"), ("NotIn", "reserved:world-ipv4!=")]),
        (word("world", "DoesNotExist"), ["!reserved:world"]),
        (word("host", "DoesNotExist"), ["!reserved:host"]),
        (word("kube-apiserver", "DoesNotExist"),
         ["!reserved:kube-apiserver & !reserved:world", "0.0.0.0/0-192.0.2.1/32 OUTSIDE", V6]),
    ],
)  # fmt: skip
def test_a_part_of_the_outside_is_its_addresses(selector: str, expected: list[str], section: str) -> None:
    """The outside has one identity: a denial of a part by that would deny nothing, and an allow more than is said."""
    side = "from" if "ingress" in section else "to"
    drafts = drafts_of(policy(f"{{{section}: [{{{side}Endpoints: [{selector}]}}]}}"), cluster="blue")
    ((found,),) = (each.rules for each in resolve(drafts, {ApiServers(): (ip_network("192.0.2.1"),)}))
    assert sorted(peer(each) for each in found.peers or ()) == sorted(expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{toEndpoints: [{matchLabels: {'reserved:world-ipv4': ''}}]}", ["0.0.0.0/0-198.51.100.1/32 OUTSIDE"]),
        ("{toEndpoints: [{matchLabels: {'reserved:kube-apiserver': '', 'reserved:world': ''}}]}",
         ["192.0.2.1/32-198.51.100.1/32 OUTSIDE"]),
        (f"{{toEndpoints: [{word('kube-apiserver', 'DoesNotExist')}]}}",
         ["!reserved:kube-apiserver & !reserved:world", "0.0.0.0/0-192.0.2.1/32-198.51.100.1/32 OUTSIDE",
          "::/0-2001:db8::1/128 OUTSIDE"]),
        ("{toCIDR: [0.0.0.0/0]}", ["0.0.0.0/0 OUTSIDE"]),
        ("{toEntities: [kube-apiserver]}", ["reserved:kube-apiserver=", "192.0.2.1/32 OUTSIDE"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("section", ["egress", "egressDeny"])
def test_where_addresses_mean_nodes_a_selector_means_none_by_them(section: str, spec: str, expected: list[str]) -> None:
    """Else one that excludes nodes by name would let them in by their addresses."""
    drafts = drafts_of(policy(f"{section}: [{spec}]"), cluster="blue")
    nodes = (ip_network("198.51.100.1"), ip_network("2001:db8::1"))
    assert (OtherNodes() in groups_of(drafts)) == ("Endpoints" in spec), "whoever puts them together does it anew when nodes move"
    ((found,),) = (each.rules for each in resolve(drafts, {ApiServers(): (ip_network("192.0.2.1"),), OtherNodes(): nodes}))
    assert [peer(each) for each in found.peers or ()] == expected


@pytest.mark.parametrize(
    "element", ["{toEntities: [kube-apiserver]}", "{toEndpoints: [{matchLabels: {'reserved:kube-apiserver': ''}}]}"]
)
def test_an_api_server_is_an_identity_or_an_address(element: str) -> None:
    """On a node it has identity 7 (or the host's, here); outside the cluster it is where it says that it is, and nowhere else."""
    groups: dict[GroupName, tuple[Network, ...]] = {ApiServers(): (ip_network("192.0.2.1"), ip_network("2001:db8::1"))}
    drafts = drafts_of(policy(f"egress: [{element}]"), cluster="blue")
    everywhere = "reserved:kube-apiserver=, 192.0.2.1/32 OUTSIDE, 2001:db8::1/128 OUTSIDE : *"
    assert [rule(each) for each in resolve(drafts, groups)[0].rules] == [f"allow {everywhere}"]
    (unknown,) = resolve(drafts)
    assert [rule(each) for each in unknown.rules] == ["allow reserved:kube-apiserver= : *"]
    assert unknown.unenforced == ("spec.egress[0] (there is no kube-apiserver)",)
    denying = drafts_of(policy(f"egressDeny: [{element}]"), cluster="blue")
    assert [rule(each) for each in resolve(denying, groups)[0].rules] == [f"deny {everywhere}"]


def test_a_group_that_is_not_there_is_nobody_and_is_told() -> None:
    """What stands beside it holds; a group that is there and empty is nobody too, and nothing to be told."""
    spec = "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8}, {cidrGroupRef: h}]}, {toCIDRSet: [{cidrGroupRef: h}]}]"
    drafts = drafts_of(policy(spec), cluster="blue")
    (missing,), (empty,) = resolve(drafts), resolve(drafts, {CidrGroup("h"): ()})
    for found in (missing, empty):
        assert [rule(each) for each in found.rules] == ["allow 10.0.0.0/8 OUTSIDE : *", "allow nobody : *"]
        assert found.default_deny == (False, True)
    assert missing.unenforced == (
        "spec.egress[0].toCIDRSet[1].cidrGroupRef (there is no CiliumCIDRGroup h, or it can't be read)",
        "spec.egress[1].toCIDRSet[0].cidrGroupRef (there is no CiliumCIDRGroup h, or it can't be read)",
    )
    assert empty.unenforced == ()
    excepted = "[{cidrGroupRef: h, except: [192.0.2.0/24, '2001:db8::/32']}]"
    denying = drafts_of(policy(f"egressDeny: [{{toCIDRSet: {excepted}}}]"), cluster="blue")
    assert rule(resolve(denying, {CidrGroup("h"): ()})[0].rules[0]) == "deny nobody : *"
    everybody_else = "deny 0.0.0.0/0-192.0.2.0/24 OUTSIDE, ::/0-2001:db8::/32 OUTSIDE : *"
    assert rule(resolve(denying)[0].rules[0]) == everybody_else, "it may be anybody but whom it excepts"


def test_the_cluster_has_its_api_servers_within() -> None:
    drafts = drafts_of(policy("egress: [{toEntities: [cluster]}]"), cluster="blue")
    (found,) = resolve(drafts, {ApiServers(): (ip_network("192.0.2.1"),)})
    assert rule(found.rules[0]).endswith("k8s:CLUSTER=blue, 192.0.2.1/32 OUTSIDE : *")
