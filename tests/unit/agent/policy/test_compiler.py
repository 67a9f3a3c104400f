"""What policies become, case by case: classes, peers, addresses, names of ports, budget, and how much is touched."""

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from tests.unit.api.policy_texts import policy as written

from pilus_agent.desired.policy.answers import Decision, Precedence
from pilus_agent.desired.policy.compiler import PolicyCompiler, compile_policies
from pilus_agent.desired.policy.explain import explain
from pilus_agent.desired.policy.tables import Compiled, CompiledPolicy, Endpoint, NamedPorts
from pilus_api.identities import HOST, REMOTE_NODE, RESERVED, WORLD, Identity
from pilus_api.labels import Label, Labels, pod_labels
from pilus_api.policies import drafts_of, resolve
from pilus_api.rules import AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope
from pilus_api.selectors import EVERYTHING, Selector, equals, selector

IN, OUT = Direction.INGRESS, Direction.EGRESS
TCP, UDP = 6, 17
WEB, API, DATA = Identity(256), Identity(257), Identity(258)
HTTP = (Ports(TCP, 80, 80),)
EVERYWHERE = ip_network("0.0.0.0/0")


def app(name: str) -> Labels:
    return (Label("k8s", "app", name),)


def is_app(name: str) -> Selector:
    return selector(equals("k8s", "app", name))


def rule(
    direction: Direction = IN,
    peers: tuple[Peer, ...] | None = None,
    ports: tuple[Ports, ...] | None = None,
    *,
    deny: bool = False,
    unenforced: tuple[str, ...] = (),
    path: str = "spec",
) -> Rule:
    return Rule(Origin("CiliumNetworkPolicy", "ns", "p", "uid", path), direction, deny, peers, ports, unenforced)


def policy(*rules: Rule, subject: Selector = EVERYTHING, default_deny: tuple[bool, bool] = (True, True), name: str = "p") -> Policy:
    return Policy(Origin("CiliumNetworkPolicy", "ns", name, f"uid-{name}"), subject, default_deny, rules)


IDENTITIES = dict(RESERVED) | {WEB: app("web"), API: app("api"), DATA: app("data")}


def compiled(*policies: Policy, own: NamedPorts | None = None, others: dict[Identity, NamedPorts] | None = None) -> Compiled:
    return compile_policies(policies, IDENTITIES, {"pod": Endpoint(app("web"), own or {})}, others)


def only(found: Compiled) -> CompiledPolicy:
    (one,) = found.policies.values()
    return one


def passes(found: CompiledPolicy, direction: Direction, who: Identity, port: int = 80, protocol: int = TCP) -> bool:
    return explain(found, direction, who, None, True, protocol, port).decision is Decision.ALLOW


def reaches(found: CompiledPolicy, address: str, inside: bool, direction: Direction = OUT, who: Identity = WORLD) -> bool:
    return explain(found, direction, who, ip_address(address), inside, TCP, 80).decision is Decision.ALLOW


def test_no_policy_is_no_enforcement() -> None:
    found = compiled(policy(subject=is_app("other")))
    assert found.endpoints["pod"].policy is None
    assert not found.endpoints["pod"].ingress_enforced
    assert found.policies == {}


def test_default_deny_without_rules_lets_in_the_host_and_nobody_else() -> None:
    found = compiled(policy(default_deny=(True, False)))
    assert found.endpoints["pod"].ingress_enforced
    assert not found.endpoints["pod"].egress_enforced
    one = only(found)
    assert passes(one, IN, HOST)
    assert not any(passes(one, IN, who) for who in (WEB, REMOTE_NODE, WORLD))
    assert passes(one, OUT, API)


def test_the_host_is_let_in_past_a_deny() -> None:
    one = only(compiled(policy(rule(deny=True), rule(deny=True, peers=(EVERYTHING,)))))
    answer = explain(one, IN, HOST, None, True, TCP, 10250)
    assert (answer.decision, answer.precedence, answer.rule) == (Decision.ALLOW, Precedence.HOST, None)
    assert not passes(one, OUT, HOST)


def test_without_default_deny_a_deny_acts_and_the_rest_passes() -> None:
    found = compiled(policy(rule(deny=True, peers=(is_app("api"),), ports=HTTP), default_deny=(False, False)))
    assert found.endpoints["pod"].ingress_enforced
    one = only(found)
    assert not passes(one, IN, API)
    assert passes(one, IN, API, port=81)
    assert passes(one, IN, DATA)


def test_without_default_deny_an_address_row_does_not_refuse_what_no_rule_refuses() -> None:
    peer = AddressPeer(ip_network("10.0.0.0/8"), (), Scope.ANY)
    one = only(compiled(policy(rule(deny=True, peers=(peer,), ports=(Ports(TCP, 22, 22),)), default_deny=(False, False))))
    assert reaches(one, "10.0.0.1", inside=True, direction=IN)


def test_classes_are_who_the_same_rules_select() -> None:
    rules = (rule(peers=(is_app("api"),), path="a"), rule(peers=(is_app("data"), is_app("api")), ports=HTTP, path="b"))
    tables = only(compiled(policy(*rules))).directions[IN]
    assert set(tables.peers) == {HOST, API, DATA}
    assert tables.peers[API].rules == (1, 2)
    assert tables.peers[DATA].rules == (2,)
    assert tables.default.rules == ()


def test_a_rule_for_anybody_stands_in_every_class_and_needs_no_row() -> None:
    rules = (rule(ports=HTTP, path="a"), rule(peers=(is_app("api"),), ports=(Ports(TCP, 81, 81),), path="b"))
    tables = only(compiled(policy(*rules))).directions[IN]
    assert tables.default.rules == (1,)
    assert tables.peers[API].rules == (1, 2)
    assert DATA not in tables.peers


def test_nobody_and_nothing_grant_nothing() -> None:
    one = only(compiled(policy(rule(peers=()), rule(ports=()))))
    assert not passes(one, IN, API)


def test_what_is_not_enforced_grants_nothing_and_denies_as_it_stands() -> None:
    one = only(compiled(policy(rule(unenforced=("http",)), rule(OUT), rule(OUT, deny=True, ports=HTTP, unenforced=("x",)))))
    assert not passes(one, IN, API)
    assert not passes(one, OUT, API)
    assert passes(one, OUT, API, port=81)


def test_endpoints_with_the_same_rules_share_a_policy() -> None:
    endpoints = {name: Endpoint(app(name), {}) for name in ("a", "b", "web")}
    found = compile_policies([policy(), policy(rule(), subject=is_app("web"), name="q")], IDENTITIES, endpoints)
    assert found.endpoints["a"] == found.endpoints["b"] != found.endpoints["web"]
    assert len(found.policies) == 2


def test_an_exception_and_what_lies_within_it_again() -> None:
    rules = (
        rule(OUT, (AddressPeer(EVERYWHERE, (ip_network("10.0.0.0/8"),), Scope.OUTSIDE),), path="a"),
        rule(OUT, (AddressPeer(ip_network("10.1.0.0/16"), (), Scope.OUTSIDE),), path="b"),
    )
    one = only(compiled(policy(*rules)))
    assert reaches(one, "8.8.8.8", inside=False)
    assert not reaches(one, "10.2.0.1", inside=False)
    assert reaches(one, "10.1.0.1", inside=False)
    assert not reaches(one, "8.8.8.8", inside=True)


def test_scopes() -> None:
    rules = (
        rule(OUT, (AddressPeer(ip_network("10.0.0.0/8"), (), Scope.ANY),), path="a"),
        rule(OUT, (AddressPeer(ip_network("10.1.0.0/16"), (), Scope.OUTSIDE),), deny=True, path="b"),
    )
    one = only(compiled(policy(*rules)))
    assert reaches(one, "10.1.0.1", inside=True, who=API)
    assert not reaches(one, "10.1.0.1", inside=False)
    assert reaches(one, "10.2.0.1", inside=False)


@pytest.mark.parametrize(("deny_who", "deny_where", "expected"), [(False, False, True), (True, False, False), (False, True, False)])
def test_of_who_and_where_a_deny_holds(deny_who: bool, deny_where: bool, expected: bool) -> None:
    where = AddressPeer(EVERYWHERE, (), Scope.ANY)
    one = only(compiled(policy(rule(OUT, (is_app("api"),), deny=deny_who), rule(OUT, (where,), deny=deny_where))))
    assert reaches(one, "10.0.0.9", inside=True, who=API) is expected


def test_a_named_port_of_ingress_is_the_endpoints_own() -> None:
    named = (Ports(TCP, 0, 0, "http"),)
    one = only(compiled(policy(rule(ports=named)), own={"http": frozenset({(TCP, 8080), (UDP, 53)})}))
    assert passes(one, IN, API, port=8080)
    assert not passes(one, IN, API, port=53, protocol=UDP)
    assert not passes(only(compiled(policy(rule(ports=named)))), IN, API, port=8080)


def test_a_named_port_of_egress_is_the_peers() -> None:
    named = (Ports(TCP, 0, 0, "http"),)
    others: dict[Identity, NamedPorts] = {
        API: {"http": frozenset({(TCP, 8080)})},
        DATA: {"http": frozenset({(TCP, 9090)})},
    }
    for peers in (None, (EVERYTHING,)):
        one = only(compiled(policy(rule(OUT, peers, named)), others=others))
        assert passes(one, OUT, API, port=8080)
        assert not passes(one, OUT, API, port=9090)
        assert passes(one, OUT, DATA, port=9090)
        assert not passes(one, OUT, WEB, port=8080)


def test_a_named_port_at_an_address_grants_nothing_denies_all_and_is_reported() -> None:
    peer = AddressPeer(EVERYWHERE, (), Scope.ANY)
    named = (Ports(TCP, 0, 0, "http"),)
    one = only(compiled(policy(rule(OUT, (peer,), named, path="a"))))
    assert not reaches(one, "8.8.8.8", inside=False)
    assert [(each.origin.path, each.port) for each in one.unresolved] == [("a", "http")]
    one = only(compiled(policy(rule(OUT), rule(OUT, (peer,), named, deny=True))))
    assert not reaches(one, "8.8.8.8", inside=False)


_PORTS = ", ".join(f"{{port: '{number}'}}" for number in range(1, 41))
_EACH = "{{toCIDR: [{peers}], toPorts: [{{ports: [{ports}]{more}}}]}}"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (
            "enableDefaultDeny: {egress: false}\negress: ["
            + ", ".join(
                _EACH.format(peers=", ".join(f"192.0.2.{peer}" for peer in range(10, 10 + number)), ports=_PORTS, more=more)
                for number in range(1, 60)
                for more in ("", ", rules: {dns: [{matchPattern: '*'}]}")
            )
            + "]",
            "more than 200,000 ports with and without rules of layer 7 for the same peers",
        ),
        (
            "ingress: [{fromRequires: ["
            + ", ".join(f"{{matchLabels: {{k{number}: v}}}}" for number in range(200))
            + "]}"
            + (", {fromEndpoints: [" + ", ".join(f"{{matchLabels: {{a: p{number}}}}}" for number in range(200)) + "]}") * 2
            + "]",
            "more than 50,000 requirements of endpoint peers (fromRequires, toRequires)",
        ),
    ],
    ids=["closing", "demands"],
)
def test_what_is_too_much_together_is_too_large_and_told(spec: str, reason: str) -> None:
    """Of each of thousands of rules with each other: bounded work, and what there was before stays or the pod is closed."""
    (held,) = drafts_of(written(spec), cluster="blue")
    labels = {"web": Endpoint(pod_labels({"app": "web"}, "N", {}, "", "blue"), {})}
    found = compile_policies(resolve([held]), RESERVED, labels)
    applied = found.endpoints["web"]
    assert applied.policy is not None
    assert str(found.too_large[applied.policy]) == reason
    assert applied.ingress_enforced or applied.egress_enforced


def test_too_large_is_a_value_and_the_others_stand() -> None:
    endpoints = {name: Endpoint(app(name), {}) for name in ("web", "api")}
    policies = [policy(rule(peers=(EVERYTHING,)), subject=is_app("web"), name="big"), policy(subject=is_app("api"), name="small")]
    found = compile_policies(policies, IDENTITIES, endpoints, budget=8)
    big, small = found.endpoints["web"].policy, found.endpoints["api"].policy
    assert big in found.too_large
    assert small in found.policies
    assert big is not None
    assert found.too_large[big].rows > found.too_large[big].budget == 8


@pytest.mark.parametrize("kind", ["peers", "addresses"])
def test_ten_thousand_rules_that_all_meet_are_given_up_in_time(kind: str) -> None:
    """Anybody may write them. Half mean everybody, each of the others one more: as many classes, each with five thousand rules."""
    many = 10_000
    rules = [rule(peers=None, ports=(Ports(TCP, number, number),), path=f"a{number}") for number in range(1, many // 2)]
    for number in range(many // 2):
        peer: Peer = AddressPeer(ip_network((10 << 24 | number << 8, 24)), (), Scope.ANY)
        if kind == "peers":
            peer = selector(equals("k8s", "app", f"app-{number}"))
        elif number == 0:
            rules = [replace(one, peers=(AddressPeer(EVERYWHERE, (), Scope.ANY),)) for one in rules]
        rules.append(rule(peers=(peer,), ports=(Ports(TCP, 1, 1),), path=f"b{number}"))
    identities = {Identity(300 + number): app(f"app-{number}") for number in range(many // 2)}
    began = time.monotonic()
    compiler = PolicyCompiler()
    for identity, labels in identities.items():
        compiler.put_identity(identity, labels)
    compiler.put_endpoint("web", Endpoint(app("web"), {}))
    compiler.put_policies("big", [policy(*rules)])
    compiler.put_policies("small", [policy(subject=is_app("api"), name="small")])
    compiler.put_endpoint("api", Endpoint(app("api"), {}))
    found = compiler.compiled()
    print(f"given up after {time.monotonic() - began:.1f} s")
    assert set(found.too_large) == {found.endpoints["web"].policy, found.endpoints["api"].policy}
    # Nor does anything that comes and goes afterwards take long: it is not tried again before its rules are others.
    compiler.put_identity(Identity(9000), app("app-7"))
    compiler.drop_identity(Identity(301))
    assert set(compiler.compiled().too_large) == set(found.too_large)
    compiler.drop_policies("big")
    assert not compiler.compiled().too_large
    compiler.drop_policies("small")
    assert compiler.compiled().endpoints["web"].policy is None


def test_one_more_identity_keeps_every_name_and_all_that_it_does_not_touch() -> None:
    compiler = PolicyCompiler()
    for identity, labels in IDENTITIES.items():
        compiler.put_identity(identity, labels)
    for name in ("web", "api"):
        compiler.put_endpoint(name, Endpoint(app(name), {}))
    compiler.put_policies("a", [policy(rule(peers=(is_app("api"),)), subject=is_app("web"), name="a")])
    compiler.put_policies("b", [policy(rule(peers=(is_app("data"),)), subject=is_app("api"), name="b")])
    before = compiler.compiled()
    compiler.put_identity(Identity(300), app("api"))
    after = compiler.compiled()
    assert after.endpoints == before.endpoints
    touched, untouched = after.endpoints["web"].policy, after.endpoints["api"].policy
    assert touched is not None
    assert untouched is not None
    assert after.policies[untouched] is before.policies[untouched]
    assert Identity(300) not in before.policies[touched].directions[IN].peers
    peers = after.policies[touched].directions[IN].peers
    assert peers[Identity(300)] is peers[API]


def test_what_comes_again_replaces_and_what_comes_twice_goes_twice() -> None:
    compiler = PolicyCompiler()
    compiler.put_endpoint("web", Endpoint(app("web"), {}))
    compiler.put_policies("a", [policy()])
    compiler.put_policies("b", [policy()])
    compiler.drop_policies("a")
    assert compiler.compiled().endpoints["web"].ingress_enforced
    compiler.put_policies("b", [policy(default_deny=(False, True))])
    assert not compiler.compiled().endpoints["web"].ingress_enforced
    compiler.drop_policies("b")
    assert compiler.compiled().endpoints["web"].policy is None
    compiler.drop_endpoint("web")
    compiler.drop_endpoint("web")
    compiler.drop_identity(API)
    assert compiler.compiled() == Compiled({}, {}, {})


def test_a_peer_that_only_a_rule_for_anybody_means_gets_its_row_when_it_names_a_port() -> None:
    compiler = PolicyCompiler()
    compiler.put_endpoint("pod", Endpoint(app("web"), {}))
    compiler.put_policies("a", [policy(rule(OUT, None, (Ports(TCP, 0, 0, "http"),)))])
    compiler.put_identity(API, app("api"))
    assert not passes(only(compiler.compiled()), OUT, API, port=8080)
    compiler.put_identity(API, app("api"), {"http": frozenset({(TCP, 8080)})})
    assert passes(only(compiler.compiled()), OUT, API, port=8080)
    compiler.put_identity(API, app("api"))
    assert API not in only(compiler.compiled()).directions[OUT].peers
