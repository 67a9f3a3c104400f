"""What objects mean in the end, from YAML to tables: who may reach a pod, where it may go, and at which ports.

Many of these are guesses that are easy to make and wrong (docs/traps.md).
"""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
import yaml

from pilus_agent.desired.policy.answers import Decision, Precedence
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.explain import explain
from pilus_agent.desired.policy.tables import Compiled, Endpoint, NamedPorts
from pilus_api.identities import (
    HEALTH,
    HOST,
    INIT,
    KUBE_APISERVER,
    REMOTE_NODE,
    RESERVED,
    WORLD,
    WORLD_IPV4,
    WORLD_IPV6,
    Identity,
)
from pilus_api.labels import Labels, pod_labels
from pilus_api.policies import drafts_of, resolve
from pilus_api.rules import ApiServers, Direction

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
WEB, API, OTHER, ABROAD = Identity(256), Identity(257), Identity(258), Identity(196864)


def labels(app: str, namespace: str = "shop", cluster: str = "blue") -> Labels:
    return pod_labels({"app": app}, namespace, {}, "", cluster)


# Of the policies' namespace, of another one, and of another cluster.
PODS = {
    WEB: labels("web"),
    API: labels("api"),
    OTHER: labels("api", namespace="bank"),
    ABROAD: labels("api", cluster="red"),
}
IDENTITIES = dict(RESERVED) | PODS


def cnp(spec: str, kind: str = "CiliumNetworkPolicy", name: str = "p") -> dict[str, Any]:
    """It governs the web pods."""
    version, subject = {
        "NetworkPolicy": ("networking.k8s.io/v1", "podSelector"),
        "CiliumNetworkPolicy": ("cilium.io/v2", "endpointSelector"),
        "CiliumClusterwideNetworkPolicy": ("cilium.io/v2", "endpointSelector"),
    }[kind]
    metadata = {"name": name} if "Clusterwide" in kind else {"name": name, "namespace": "shop"}
    held = {subject: {"matchLabels": {"app": "web"}}} | yaml.safe_load(spec)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": held}


def knp(spec: str) -> dict[str, Any]:
    return cnp(spec, "NetworkPolicy")


@dataclass(frozen=True)
class Tables:
    compiled: Compiled
    endpoint: str = "web"

    def passes(
        self, direction: Direction, who: Identity, port: int = 80, protocol: int = TCP, address: str = "", inside: bool = True
    ) -> bool:
        applied = self.compiled.endpoints[self.endpoint]
        if applied.policy is None or not (applied.egress_enforced if direction else applied.ingress_enforced):
            return True
        where = ip_address(address) if address else None
        policy = self.compiled.policies[applied.policy]
        return explain(policy, direction, who, where, inside, protocol, port).decision is Decision.ALLOW

    def peers(self, direction: Direction = INGRESS, port: int = 80, protocol: int = TCP) -> set[Identity]:
        """Who may at this port. This node's own stack always comes in."""
        return {who for who in IDENTITIES if self.passes(direction, who, port, protocol) and (direction or who != HOST)}

    def reached(self, address: str, inside: bool) -> bool:
        return self.passes(EGRESS, API if inside else WORLD, address=address, inside=inside)


def tables(*objects: dict[str, Any], endpoints: dict[str, Endpoint] | None = None) -> Tables:
    drafts = [draft for held in objects for draft in drafts_of(held, cluster="blue")]
    of = endpoints or {"web": Endpoint(PODS[WEB], {})}
    return Tables(compile_policies(resolve(drafts, {ApiServers(): ()}), IDENTITIES, of))


# -- what drawn objects have found (tests/properties/test_objects.py) --------------------------------------------------------

UNTOLD = Identity(9999)


def test_all_are_also_those_whom_nobody_has_told_of_yet() -> None:
    """A pod may send before the node of the other one has heard of its labels."""
    assert tables(cnp("{ingress: [{fromEntities: [all]}]}")).passes(INGRESS, UNTOLD)
    found = tables(cnp("{ingressDeny: [{fromEntities: [all]}], enableDefaultDeny: {ingress: false}}"))
    assert not found.passes(INGRESS, UNTOLD)
    assert not found.passes(INGRESS, API)


def test_requirements_bind_whom_a_network_policy_lets_in_but_not_by_address() -> None:
    everybody = "{ingress: [{from: [{namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8}}]}]}"
    demand = cnp("{ingress: [{fromRequires: [{matchLabels: {app: web}}]}]}", name="q")
    assert tables(knp(everybody)).peers() == {*PODS}
    found = tables(knp(everybody), demand)
    assert found.peers() == {WEB}
    assert found.passes(INGRESS, OTHER, address="10.1.2.3")
    assert tables(knp("{ingress: [{}]}"), demand).peers() == {WEB}, "also where it lets in everybody"


@pytest.mark.parametrize(("demand", "let_in"), [("app: web", False), ("'reserved:world': ''", True)])
def test_requirements_bind_a_family_of_the_outside_that_a_selector_means(demand: str, let_in: bool) -> None:
    """Where they speak of namespaces, without which none is met outside."""
    nowhere = "matchExpressions: [{key: io.kubernetes.pod.namespace, operator: DoesNotExist}]"
    requires = f"fromRequires: [{{matchLabels: {{{demand}}}, {nowhere}}}]"
    found = tables(cnp(f"{{ingress: [{{fromEndpoints: [{{matchLabels: {{'reserved:world-ipv4': ''}}}}], {requires}}}]}}"))
    assert found.passes(INGRESS, WORLD, address="8.8.8.8", inside=False) == let_in


def test_a_family_of_the_outside_has_no_other_labels() -> None:
    selector = "{matchLabels: {'reserved:world-ipv4': ''}, matchExpressions: [{key: app, operator: DoesNotExist}]}"
    found = tables(cnp(f"{{ingress: [{{fromEndpoints: [{selector}]}}]}}"))
    assert found.passes(INGRESS, WORLD, address="8.8.8.8", inside=False)
    assert not found.passes(INGRESS, WORLD, address="2001:db8::1", inside=False)


# -- whom a peer means -------------------------------------------------------------------------------------------------

PORT = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"


@pytest.mark.parametrize(
    ("peers", "meant"),
    [
        ("", set(IDENTITIES) - {HOST}),
        ("fromEndpoints: [], ", set()),
        ("fromEndpoints: [{}], ", {WEB, API, ABROAD}),
    ],
)
def test_an_absent_an_empty_and_a_whole_list_of_peers(peers: str, meant: set[Identity]) -> None:
    """Anybody, where there are ports; nobody; and those of the policy's namespace."""
    assert tables(cnp(f"{{ingress: [{{{peers}{PORT}}}]}}")).peers() == meant


def test_all_endpoints_clusterwide_are_pods_and_nobody_else() -> None:
    """Neither hosts nor the world, and no health endpoint, API server or pod without identity."""
    found = tables(cnp("{ingress: [{fromEndpoints: [{}]}]}", "CiliumClusterwideNetworkPolicy"))
    assert found.peers() == set(PODS)
    found = tables(cnp("{egress: [{toEndpoints: [{}]}]}", "CiliumClusterwideNetworkPolicy"))
    assert found.peers(EGRESS) == set(PODS)
    assert not {HOST, WORLD, HEALTH, INIT, REMOTE_NODE, KUBE_APISERVER} & found.peers(EGRESS)


def test_a_rule_of_a_network_policy_without_peers_means_the_world_and_nodes_too() -> None:
    """`fromEndpoints: [{}]` is not that; `fromEntities: [all]` is."""
    everybody = set(IDENTITIES) - {HOST}
    for rule in ("{}", "{from: []}", "{ports: [{port: 80}]}"):
        assert tables(knp(f"{{ingress: [{rule}]}}")).peers() == everybody
    assert tables(cnp("{ingress: [{fromEndpoints: [{}]}]}")).peers() == {WEB, API, ABROAD}
    assert tables(cnp("{ingress: [{fromEntities: [all]}]}")).peers() == everybody
    assert tables(knp("{policyTypes: [Egress], egress: [{}]}")).peers(EGRESS) == set(IDENTITIES)


def test_the_cluster_is_this_one_alone() -> None:
    """Not another one's pods, though they are not the world either. What is local infrastructure is of the cluster."""
    found = tables(cnp("{ingress: [{fromEntities: [cluster]}]}")).peers()
    assert {WEB, API, OTHER, REMOTE_NODE, KUBE_APISERVER, HEALTH, INIT} <= found
    assert not {ABROAD, WORLD, WORLD_IPV4, WORLD_IPV6} & found
    assert tables(cnp("{ingress: [{fromEntities: [world]}]}")).peers() == {WORLD, WORLD_IPV4, WORLD_IPV6}


@pytest.mark.parametrize(
    ("peer", "meant"),
    [
        ("fromEntities: [remote-node]", {REMOTE_NODE, KUBE_APISERVER}),
        ("fromEndpoints: [{matchLabels: {'reserved:remote-node': ''}}]", {REMOTE_NODE, KUBE_APISERVER}),
        ("fromEntities: [kube-apiserver]", {KUBE_APISERVER}),
    ],
)
def test_another_node_may_be_an_api_server(peer: str, meant: set[Identity]) -> None:
    assert tables(cnp(f"{{ingress: [{{{peer}}}]}}")).peers() == meant


@pytest.mark.parametrize("section", ["ingress", "egress"])
def test_cve_2025_30163_nodes_are_never_the_pods_on_them(section: str) -> None:
    """By entity other nodes alone are meant. By label (`fromNodes`) it is nobody yet, and where it is denied every other node."""
    direction, prefix = (INGRESS, "from") if section == "ingress" else (EGRESS, "to")
    for peer in (f"{prefix}Nodes: [{{}}]", f"{prefix}Nodes: [{{matchLabels: {{app: api}}}}]", f"{prefix}Entities: [remote-node]"):
        assert not set(PODS) & tables(cnp(f"{{{section}: [{{{peer}}}]}}")).peers(direction)
        denied = tables(cnp(f"{{{section}: [{{{prefix}Entities: [all]}}], {section}Deny: [{{{peer}}}]}}")).peers(direction)
        assert set(PODS) <= denied
        assert not {REMOTE_NODE, KUBE_APISERVER} & denied


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["10.0.0.7", "10.0.0.0/8", "0.0.0.0/0"])
def test_a_rule_by_address_means_no_pod_and_no_node(prefix: str) -> None:
    """Whatever address they have, it is outside that is meant; not so an ipBlock, which is any address."""
    found = tables(cnp(f"{{egress: [{{toCIDR: ['{prefix}']}}]}}"))
    assert found.reached("10.0.0.7", inside=False)
    assert not found.passes(EGRESS, API, address="10.0.0.7")
    assert not found.passes(EGRESS, HOST, address="10.0.0.7")
    assert not found.passes(EGRESS, REMOTE_NODE, address="10.0.0.7")
    block = prefix if "/" in prefix else f"{prefix}/32"
    found = tables(knp(f"{{policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: {block}}}}}]}}]}}"))
    assert found.reached("10.0.0.7", inside=False)
    assert found.passes(EGRESS, API, address="10.0.0.7")


def test_an_address_makes_no_identity() -> None:
    """So there are no numbers that mean something on one node alone: rows of peers are of identities that everybody knows."""
    found = tables(cnp("{egress: [{toCIDR: [192.0.2.0/24, '2001:db8::/32']}, {toEndpoints: [{}]}]}"))
    (policy,) = found.compiled.policies.values()
    assert {str(key.network) for key in policy.directions[EGRESS].cidrs} == {"192.0.2.0/24", "2001:db8::/32"}
    assert set(policy.directions[EGRESS].peers) == {WEB, API, ABROAD}


@pytest.mark.parametrize("kind", ["cilium.io", "Kubernetes"])
def test_an_exception_denies_nothing(kind: str) -> None:
    """It is taken from its own entry; what another entry or another rule allows of it stays allowed."""

    def of(*entries: str) -> Tables:
        if kind == "cilium.io":
            return tables(cnp("{egress: [" + ", ".join(f"{{toCIDRSet: [{entry}]}}" for entry in entries) + "]}"))
        blocks = ", ".join(f"{{to: [{{ipBlock: {entry}}}]}}" for entry in entries)
        return tables(knp(f"{{policyTypes: [Egress], egress: [{blocks}]}}"))

    excepting = "{cidr: 192.0.0.0/8, except: [192.0.2.0/24]}"
    assert [of(excepting).reached(address, inside=False) for address in ("192.0.3.1", "192.0.2.1")] == [True, False]
    for other in ("{cidr: 192.0.2.0/24}", "{cidr: 0.0.0.0/0}"):
        assert of(excepting, other).reached("192.0.2.1", inside=False)
        assert of(other, excepting).reached("192.0.2.1", inside=False)


@pytest.mark.parametrize("denied", ["toCIDR: [192.0.0.0/8]", "toCIDR: [0.0.0.0/0]", "toEntities: [world]", "toEntities: [all]"])
@pytest.mark.parametrize("allowed", ["toCIDR: [192.0.2.0/24]", "toCIDR: [192.0.2.1]", "toEntities: [world]", PORT])
def test_cve_2024_47825_a_broad_denial_holds_against_a_narrower_allow(denied: str, allowed: str) -> None:
    """Tables answer by the longest match, which is the narrower one: so it is said there that the address is denied."""
    allow = f"egress: [{{{allowed}}}, {{toCIDR: [203.0.113.1]}}]"
    assert tables(cnp(f"{{{allow}}}")).reached("192.0.2.1", inside=False)
    for held in (
        [cnp(f"{{{allow}, egressDeny: [{{{denied}}}]}}")],
        [cnp(f"{{{allow}}}"), cnp(f"{{egressDeny: [{{{denied}}}]}}", name="q")],
    ):
        found = tables(*held)
        assert not found.reached("192.0.2.1", inside=False)
        assert found.reached("203.0.113.1", inside=False) == (denied == "toCIDR: [192.0.0.0/8]")


# -- ports -------------------------------------------------------------------------------------------------------------


def test_a_denied_peer_is_denied_at_a_port_that_it_is_allowed() -> None:
    """Deny wins, though the allow is the more specific."""
    api = "fromEndpoints: [{matchLabels: {app: api}}]"
    allow = cnp(f"{{ingress: [{{{api}, {PORT}}}, {{fromEndpoints: [{{}}]}}]}}")
    assert tables(allow).peers() == {WEB, API, ABROAD}
    found = tables(allow, cnp(f"{{ingressDeny: [{{{api}}}]}}", name="q"))
    assert found.peers() == found.peers(port=81) == {WEB}


def test_ports_of_every_protocol_let_no_ping_through() -> None:
    """An element with ports never does, one without does."""
    for ports in ("{port: '0'}", "{port: '0', protocol: ANY}", "{port: '8'}, {port: '128'}"):
        found = tables(cnp(f"{{ingress: [{{fromEndpoints: [{{}}], toPorts: [{{ports: [{ports}]}}]}}]}}"))
        assert all(found.passes(INGRESS, API, 8, protocol) for protocol in (TCP, UDP, SCTP))
        assert not found.passes(INGRESS, API, 8, ICMP)
        assert not found.passes(INGRESS, API, 128, ICMPV6)
    found = tables(cnp("{ingress: [{fromEndpoints: [{}]}]}"))
    assert found.passes(INGRESS, API, 8, ICMP)
    assert found.passes(INGRESS, API, 128, ICMPV6)


@pytest.mark.parametrize("field", ["type: EchoRequest", "type: Echo", "type: 8", "family: IPv4, type: EchoRequest"])
def test_a_type_of_icmp_is_of_one_family_and_no_port(field: str) -> None:
    """IPv4's, where none is given."""
    found = tables(cnp(f"{{ingress: [{{icmps: [{{fields: [{{{field}}}]}}]}}]}}"))
    assert found.passes(INGRESS, API, 8, ICMP)
    assert not found.passes(INGRESS, API, 0, ICMP)
    assert not any(found.passes(INGRESS, API, number, ICMPV6) for number in (8, 128))
    assert not any(found.passes(INGRESS, API, 8, protocol) for protocol in (TCP, UDP, SCTP))
    found = tables(cnp("{ingress: [{icmps: [{fields: [{family: IPv6, type: EchoRequest}]}]}]}"))
    assert found.passes(INGRESS, API, 128, ICMPV6)
    assert not found.passes(INGRESS, API, 8, ICMP)


def test_a_named_port_is_each_pods_own() -> None:
    """One policy, three pods: two that call different ports so, and one that calls none so."""
    named: dict[str, NamedPorts] = {
        "one": {"http": frozenset({(TCP, 8080)})},
        "two": {"http": frozenset({(TCP, 9090)})},
        "three": {},
    }
    endpoints = {name: Endpoint(PODS[WEB], ports) for name, ports in named.items()}
    compiled = tables(cnp("{ingress: [{toPorts: [{ports: [{port: http}]}]}]}"), endpoints=endpoints).compiled
    open_at = {name: [port for port in (0, 8080, 9090) if Tables(compiled, name).passes(INGRESS, API, port)] for name in named}
    assert open_at == {"one": [8080], "two": [9090], "three": []}


# -- layer 7 -----------------------------------------------------------------------------------------------------------

HTTP = "toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{http: [{rule}]}}}}]"


@pytest.mark.parametrize(
    "rule",
    [
        "{}", "{path: /api}", "{path: '/api.*', method: GET}", "{host: ''}", "{host: 'a.example(:[0-9]+)?'}", "{headers: ['X: v']}",
        "{headerMatches: [{name: X, value: v}]}", "{headerMatches: [{name: X, value: v, mismatch: REPLACE}]}",
    ],
)  # fmt: skip
def test_what_rules_of_http_would_restrict_is_denied(rule: str) -> None:
    """Every rule is understood and none is in force: its ports are closed, and others of the element are not."""
    found = tables(cnp(f"{{ingress: [{{{HTTP.format(rule=rule)}}}, {{toPorts: [{{ports: [{{port: '81'}}]}}]}}]}}"))
    assert found.peers(port=80) == set()
    assert API in found.peers(port=81)


def test_a_plain_rule_beside_one_of_http_opens_the_port_whole() -> None:
    """In the same policy or in another one."""
    http, plain = HTTP.format(rule="{path: /api}"), PORT
    assert not tables(cnp(f"{{ingress: [{{{http}}}]}}")).passes(INGRESS, API)
    assert tables(cnp(f"{{ingress: [{{{http}}}, {{{plain}}}]}}")).passes(INGRESS, API)
    assert tables(cnp(f"{{ingress: [{{{http}}}]}}"), cnp(f"{{ingress: [{{{plain}}}]}}", name="q")).passes(INGRESS, API)


@pytest.mark.parametrize("ports", ["{port: '1', endPort: 65535, protocol: TCP}", "{port: '80', endPort: 90, protocol: TCP}"])
def test_cve_2024_52529_rules_of_layer_7_at_a_range_open_none_of_it(ports: str) -> None:
    """Nor does what another policy says of a part of the range."""
    ranged = f"{{ingress: [{{toPorts: [{{ports: [{ports}], rules: {{http: [{{path: /}}]}}}}]}}]}}"
    assert all(tables(cnp(ranged)).peers(port=port) == set() for port in (1, 80, 85, 90, 65535))
    narrow = cnp(f"{{ingress: [{{fromEndpoints: [{{matchLabels: {{app: api}}}}], {PORT}}}]}}", name="q")
    assert tables(narrow).peers(port=80) == {API, ABROAD}
    assert tables(cnp(ranged), narrow).peers(port=80) == tables(cnp(ranged), narrow).peers(port=85) == set()


_API = "fromEndpoints: [{matchLabels: {app: api}}]"
_TLS = "toPorts: [{ports: [{port: '80', protocol: TCP}], terminatingTLS: {secret: {name: s}}}]"
_NAMES = "toPorts: [{ports: [{port: '80', protocol: TCP}], serverNames: [a.example]}]"


@pytest.mark.parametrize(
    ("restricted", "plain"),
    [
        (f"{_API}, authentication: {{mode: required}}", _API),
        (f"{_API}, authentication: {{mode: test-always-fail}}", "fromEntities: [all]"),
        (f"fromEntities: [all], {PORT}, authentication: {{mode: required}}", f"{_API}, {PORT}"),
        (f"{_API}, {_NAMES}", f"{_API}, {PORT}"),
        (f"{_API}, {_TLS}", f"{_API}, {PORT}"),
        (f"{_API}, {HTTP.format(rule='{}')}", PORT),
        (HTTP.format(rule="{}"), f"{_API}, {PORT}"),
        (f"{_API}, {HTTP.format(rule='{}')}", _API),
        (f"{_API}, {HTTP.format(rule='{}')}", f"{_API}, toPorts: [{{ports: [{{port: '80', endPort: 81, protocol: TCP}}]}}]"),
        (f"{_API}, {HTTP.format(rule='{}')}", f"fromEndpoints: [{{matchLabels: {{'k8s:app': api}}}}], {PORT}"),
    ],
)
def test_what_would_be_restricted_stays_closed_beside_what_is_plain(restricted: str, plain: str) -> None:
    """In the same policy or in another, also where nothing is denied by default."""
    assert tables(cnp(f"{{ingress: [{{{plain}}}]}}")).passes(INGRESS, API)
    open_by_default = f"{{enableDefaultDeny: {{ingress: false}}, ingress: [{{{restricted}}}]}}"
    for held in (
        [cnp(f"{{ingress: [{{{restricted}}}, {{{plain}}}]}}")],
        [cnp(f"{{ingress: [{{{restricted}}}]}}"), cnp(f"{{ingress: [{{{plain}}}]}}", name="q")],
        [knp("{ingress: [{}]}"), cnp(f"{{ingress: [{{{restricted}}}]}}")],
        [cnp(open_by_default)],
    ):
        assert not tables(*held).passes(INGRESS, API)


def test_a_plain_rule_opens_what_it_has_in_common_with_one_of_http_alone() -> None:
    """The same peer at the same port; others of the element stay closed."""
    two = "fromEndpoints: [{matchLabels: {app: api}}, {matchLabels: {app: web}}]"
    ports = "toPorts: [{ports: [{port: '80', protocol: TCP}, {port: '81', protocol: TCP}], rules: {http: [{}]}}]"
    found = tables(cnp(f"{{ingress: [{{{two}, {ports}}}, {{{_API}, {PORT}}}, {{fromEntities: [all]}}]}}"))
    assert found.passes(INGRESS, API, port=80)
    assert not found.passes(INGRESS, API, port=81)
    assert not found.passes(INGRESS, WEB, port=80)
    assert found.passes(INGRESS, OTHER, port=81)


# -- what is closed ----------------------------------------------------------------------------------------------------


def test_one_policys_default_deny_is_not_undone_by_anothers() -> None:
    """`enableDefaultDeny: {ingress: false}` is of one policy, and of one direction."""
    opening = cnp("{enableDefaultDeny: {ingress: false}, ingress: [{fromEntities: [host]}], egress: [{toEntities: [host]}]}")
    assert tables(opening).passes(INGRESS, API)
    assert not tables(opening).passes(EGRESS, API)
    closing = cnp("{ingress: [{fromEntities: [host]}]}", name="q")
    for held in ((opening, closing), (closing, opening)):
        assert not tables(*held).passes(INGRESS, API)


@pytest.mark.parametrize("held", [cnp("{egress: [{}]}"), cnp("{egressDeny: [{}]}"), knp("{policyTypes: [Egress]}")])
def test_a_policy_of_egress_leaves_ingress_open(held: dict[str, Any]) -> None:
    assert tables(held).passes(INGRESS, API)
    assert not tables(held).passes(EGRESS, API)


def test_nothing_said_is_no_opinion_and_an_element_that_means_nobody_closes() -> None:
    """`ingress: []` and `ingress: [{}]`."""
    assert tables(cnp("{ingress: []}")).passes(INGRESS, API)
    assert tables(cnp("{ingress: [{}]}")).peers() == set()
    assert tables(cnp("{ingress: []}"), cnp("{ingress: [{fromEndpoints: [{}]}]}", name="q")).peers() == {WEB, API, ABROAD}


# -- tiers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["Admin", "Baseline"])
@pytest.mark.parametrize(
    ("first", "second"), [((0, 0), (0, 1)), ((0, 24), (1, 0)), ((511, 24), (512, 0)), ((999, 24), (1000, 0)), ((0, 0), (1000, 24))]
)
def test_cve_2026_25804_priorities_keep_their_order_to_their_ends(
    tier: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """The lowest number holds, from the first rule of the first priority to the last one of the last; no sum goes over its end."""

    def held(place: tuple[int, int], action: str) -> dict[str, Any]:
        priority, index = place
        nobody = {"action": "Deny" if action == "Accept" else "Accept", "from": [{"namespaces": {"matchLabels": {"no": "body"}}}]}
        rules = [nobody] * index + [{"action": action, "from": [{"namespaces": {}}]}]
        spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, "ingress": rules}
        return {
            "apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": f"{action}-{priority}".lower()}, "spec": spec,
        }  # fmt: skip

    for action, other in (("Accept", "Deny"), ("Deny", "Accept")):
        for order in ((first, second), (second, first)):
            wins = order[0] == first
            found = tables(held(order[0], action), held(order[1], other))
            assert found.passes(INGRESS, API) == ((action == "Accept") == wins)
    # Whatever its priority, a tier stays on its side of the one between, and below the node's own stack.
    closing = cnp("{ingress: [{fromEntities: [host]}]}")
    for place in (first, second):
        assert tables(held(place, "Accept"), closing).passes(INGRESS, API) == (tier == "Admin")
        (policy,) = tables(held(place, "Deny")).compiled.policies.values()
        (row,) = {
            row for row in policy.directions[INGRESS].peers[API].table.rows if (row.above if tier == "Admin" else row.answer).rule
        }
        assert 0 < (row.above if tier == "Admin" else row.answer).precedence < Precedence.HOST < 1 << 32
        assert tables(held(place, "Deny")).passes(INGRESS, HOST)
