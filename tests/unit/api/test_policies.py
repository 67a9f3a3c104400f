"""What policies of cilium.io mean, in the words of pilus_api.rules: a table of elements, and what becomes of them."""

import pytest
from tests.unit.api.policy_texts import compiled, labels, peer, policy, rule, word

from pilus_api.errors import InvalidError
from pilus_api.policies import drafts_of, policies_of, resolve
from pilus_api.rules import Direction
from pilus_api.selectors import Selector

ELEMENTS = [
    # peers: absent, empty, everything in the namespace
    ("{}", "allow nobody : *"),
    ("{fromEndpoints: []}", "allow nobody : *"),
    ("{fromEndpoints: [], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}", "allow nobody : 6/80"),
    ("{fromCIDR: []}", "allow nobody : *"),
    ("{fromCIDRSet: []}", "allow nobody : *"),
    ("{fromEntities: []}", "allow nobody : *"),
    ("{fromNodes: []}", "allow nobody : *"),
    ("{fromEndpoints: [{}]}", "allow k8s:NS=N : *"),
    ("{fromEndpoints: [{}, {}]}", "allow k8s:NS=N : *"),
    ("{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}", "allow * : 6/80"),
    # sources, and the namespace that is implied
    ("{fromEndpoints: [{matchLabels: {app: a}}]}", "allow any:app=a & k8s:NS=N : *"),
    ("{fromEndpoints: [{matchLabels: {'k8s:app': a}}]}", "allow k8s:app=a & k8s:NS=N : *"),
    ("{fromEndpoints: [{matchLabels: {'any:app': a, 'cni:x': b}}]}", "allow any:app=a & cni:x=b & k8s:NS=N : *"),
    ("{fromEndpoints: [{matchLabels: {app: a}}, {matchLabels: {app: b}}]}", "allow any:app=a & k8s:NS=N, any:app=b & k8s:NS=N : *"),
    ("{fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: M}}]}", "allow any:NS=M : *"),
    ("{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': M}}]}", "allow k8s:NS=M : *"),
    ("{fromEndpoints: [{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}]}", "allow k8s:NS : *"),
    (
        "{fromEndpoints: [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': a}}]}",
        "allow k8s:io.cilium.k8s.namespace.labels.team=a : *",
    ),
    (
        "{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.team: a, app: b}}]}",
        "allow any:app=b & any:io.cilium.k8s.namespace.labels.team=a : *",
    ),
    ("{fromEndpoints: [{matchLabels: {'cni:io.kubernetes.pod.namespace': M}}]}", "allow cni:NS=M & k8s:NS=N : *"),
    ("{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}", "allow reserved:host= : *"),
    (
        "{fromEndpoints: [{matchExpressions: [{key: a, operator: In, values: [y, x, x]}, {key: b, operator: NotIn, values: [z]},"
        " {key: c, operator: Exists}, {key: d, operator: DoesNotExist}]}]}",
        "allow any:a=x|y & any:b!=z & any:c & !any:d & k8s:NS=N : *",
    ),
    # entities
    ("{fromEntities: [all]}", "allow * : *"),
    ("{fromEntities: [world]}", "allow reserved:world=, reserved:world-ipv4=, reserved:world-ipv6= : *"),
    ("{fromEntities: [host, health]}", "allow reserved:host=, reserved:health= : *"),
    ("{fromEntities: [none]}", "allow reserved:none= : *"),
    (
        "{fromEntities: [cluster]}",
        "allow reserved:host=, reserved:remote-node=, reserved:init=, reserved:ingress=, reserved:health=, reserved:unmanaged=,"
        " reserved:kube-apiserver=, k8s:CLUSTER=blue : *",
    ),
    # addresses
    ("{fromCIDR: [10.0.0.1, 10.1.2.3/8]}", "allow 10.0.0.1/32 OUTSIDE, 10.0.0.0/8 OUTSIDE : *"),
    ("{fromCIDR: ['fd00::1', '::/0']}", "allow fd00::1/128 OUTSIDE, ::/0 OUTSIDE : *"),
    ("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}", "allow 10.0.0.0/8-10.1.0.0/16 OUTSIDE : *"),
    ("{fromCIDRSet: [{cidrGroupRef: g}]}", "allow 192.0.2.0/24 OUTSIDE, 2001:db8::/32 OUTSIDE : *"),
    (
        "{fromCIDRSet: [{cidr: 10.0.0.0/8}, {cidrGroupRef: g, except: [192.0.2.1/32]}]}",
        "allow 10.0.0.0/8 OUTSIDE, 192.0.2.0/24-192.0.2.1/32 OUTSIDE, 2001:db8::/32 OUTSIDE : *",
    ),
    # requirements
    ("{fromRequires: [{matchLabels: {env: prod}}]}", "allow nobody : *"),
    ("{fromRequires: [{matchLabels: {env: prod}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}", "allow nobody : 6/80"),
    (
        "{fromRequires: [{matchLabels: {env: prod}}], fromEndpoints: [{matchLabels: {app: a}}]}",
        "allow any:app=a & any:env=prod & k8s:NS=N : *",
    ),
    (
        "{fromRequires: [{matchLabels: {env: prod}}, {matchLabels: {io.kubernetes.pod.namespace: M}}],"
        " fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: M}}]}",
        "allow any:env=prod & any:NS=M & k8s:NS=N : *",
    ),
    ("{fromRequires: [{matchLabels: {env: prod}}], fromEntities: [host]}", "allow reserved:host= : *"),
    # ports
    ("{toPorts: []}", "allow nobody : *"),
    ("{toPorts: [{}]}", "allow * : nothing"),
    ("{toPorts: [{ports: []}]}", "allow * : nothing"),
    ("{fromEndpoints: [{}], toPorts: []}", "allow k8s:NS=N : *"),
    ("{fromEndpoints: [{}], toPorts: [{}]}", "allow k8s:NS=N : nothing"),
    ("{toPorts: [{}, {ports: [{port: '80', protocol: TCP}]}]}", "allow * : 6/80"),
    ("{toPorts: [{ports: [{port: '80'}]}]}", "allow * : 6/80 17/80 132/80"),
    ("{toPorts: [{ports: [{port: '80', protocol: any}]}]}", "allow * : 6/80 17/80 132/80"),
    ("{toPorts: [{ports: [{port: '53', protocol: Udp}, {port: '53', protocol: TCP}]}]}", "allow * : 6/53 17/53"),
    ("{toPorts: [{ports: [{port: '0', protocol: SCTP}]}]}", "allow * : 132/0-65535"),
    ("{toPorts: [{ports: [{port: '0', endPort: 65535, protocol: TCP}]}]}", "allow * : 6/0-65535"),
    ("{toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}]}]}", "allow * : 6/80-90"),
    ("{toPorts: [{ports: [{port: '80', endPort: 80, protocol: TCP}]}]}", "allow * : 6/80"),
    ("{toPorts: [{ports: [{port: '80', endPort: 7, protocol: TCP}]}]}", "allow * : 6/80"),
    ("{toPorts: [{ports: [{port: 'HTTP', protocol: TCP}]}]}", "allow * : 6/http"),
    ("{toPorts: [{ports: [{port: 'dns', endPort: 99}]}]}", "allow * : 6/dns 17/dns 132/dns"),
    ("{toPorts: [{ports: [{port: '010', protocol: TCP}]}]}", "allow * : 6/8"),
    # ICMP
    ("{icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}, {type: EchoReply}]}]}", "allow * : 1/0 1/8 58/128"),
    ("{fromEndpoints: [{}], icmps: [{fields: [{type: Echo}]}]}", "allow k8s:NS=N : 1/8"),
    ("{icmps: []}", "allow nobody : *"),
    ("{icmps: [{}]}", "allow * : nothing"),
    # not in force yet
    ("{fromNodes: [{}]}", "allow nobody : * ! spec.ingress[0].fromNodes"),
    ("{fromGroups: [{aws: {region: r}}]}", "allow nobody : * ! spec.ingress[0].fromGroups"),
    (
        "{fromEndpoints: [{}], authentication: {mode: required}}",
        "deny k8s:NS=N : * ! spec.ingress[0].authentication",
    ),
    ("{fromEndpoints: [{}], authentication: {mode: disabled}}", "allow k8s:NS=N : *"),
    (
        "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}, {ports: [{port: '81', protocol: TCP}]}]}",
        "allow * : 6/81; deny * : 6/80 ! spec.ingress[0].toPorts[0].rules.http",
    ),
    (
        "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {l7proto: x}}]}",
        "deny * : 6/80 ! spec.ingress[0].toPorts[0].rules.l7proto",
    ),
    ("{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: []}}]}", "allow * : 6/80"),
    (
        "{toPorts: [{ports: [{port: '443', protocol: TCP}], terminatingTLS: {secret: {name: a}},"
        " originatingTLS: {secret: {name: a}}, serverNames: [a.b]}]}",
        "deny * : 6/443 ! spec.ingress[0].toPorts[0].terminatingTLS spec.ingress[0].toPorts[0].originatingTLS"
        " spec.ingress[0].toPorts[0].serverNames",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("element", "expected"), ELEMENTS)
def test_ingress(element: str, expected: str) -> None:
    found = compiled(f"ingress: [{element}]")
    assert "; ".join(rule(each) for each in found.rules) == expected
    assert all(each.direction is Direction.INGRESS for each in found.rules)
    assert all(each.origin.path == "spec.ingress[0]" for each in found.rules)
    assert found.default_deny == (True, False)


@pytest.mark.parametrize(("element", "expected"), ELEMENTS)
def test_egress_mirrors_ingress(element: str, expected: str) -> None:
    found = compiled("egress: [" + element.replace("from", "to") + "]")
    mirrored = expected.replace("ingress[0].from", "egress[0].to").replace("spec.ingress", "spec.egress")
    assert "; ".join(rule(each) for each in found.rules) == mirrored
    assert found.default_deny == (False, True)


NO_DENY = ("authentication", "rules:", "TLS", "fromNodes: [{", "fromGroups: [{")


@pytest.mark.parametrize(("element", "expected"), [case for case in ELEMENTS if not any(word in case[0] for word in NO_DENY)])
def test_deny_reads_as_allow_does(element: str, expected: str) -> None:
    found = compiled(f"ingressDeny: [{element}]")
    assert "; ".join(rule(each) for each in found.rules) == expected.replace("allow", "deny")
    assert found.default_deny == (True, False)


EGRESS_ONLY = [
    ("{toFQDNs: [{matchName: a.b}]}", "allow nobody : * ! spec.egress[0].toFQDNs"),
    ("{toFQDNs: []}", "allow nobody : *"),
    ("{toServices: [{k8sService: {serviceName: a}}]}", "allow 192.0.2.1/32 OUTSIDE : *"),
    ("{toServices: [{k8sService: {serviceName: a, namespace: other}}]}", "allow nobody : *"),
    (
        "{toServices: [{k8sService: {serviceName: a}}, {k8sServiceSelector: {selector: {matchLabels: {x: y}}, namespace: M}}]}",
        "allow 192.0.2.1/32 OUTSIDE, 192.0.2.2/32 OUTSIDE : *",
    ),
    ("{toServices: [{}]}", "allow nobody : *"),
    (
        "{toPorts: [{ports: [{port: '53', protocol: UDP}], rules: {dns: [{matchPattern: '*'}]}}]}",
        "deny * : 17/53 ! spec.egress[0].toPorts[0].rules.dns",
    ),
    (
        "{toFQDNs: [{matchName: a.b}], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}",
        "deny 0.0.0.0/0 OUTSIDE, ::/0 OUTSIDE : 6/80 ! spec.egress[0].toPorts[0].rules.http spec.egress[0].toFQDNs",
    ),
    (
        "{toPorts: [{ports: [{port: '80', protocol: TCP}], listener: {name: a, envoyConfig: {name: b}}}]}",
        "deny * : 6/80 ! spec.egress[0].toPorts[0].listener",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("element", "expected"), EGRESS_ONLY)
def test_egress_only(element: str, expected: str) -> None:
    assert "; ".join(rule(each) for each in compiled(f"egress: [{element}]").rules) == expected


@pytest.mark.parametrize("clusterwide", [False, True])
@pytest.mark.parametrize("section", ["ingress", "ingressDeny", "egress", "egressDeny"])
@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ("[]", "nobody"),
        ("[{}]", "reserved:remote-node="),
        ("[{matchLabels: {rack: b}}]", "node:rack=b & reserved:remote-node="),
        ("[{matchLabels: {'node:rack': b}}]", "node:rack=b & reserved:remote-node="),
        ("[{matchLabels: {'any:rack': b}}]", "node:rack=b & reserved:remote-node="),
        ("[{matchLabels: {'k8s:app': b}}]", "k8s:app=b & reserved:remote-node="),
        (
            "[{matchExpressions: [{key: rack, operator: NotIn, values: [b]}]}]",
            "node:rack!=b & reserved:remote-node=",
        ),
        (
            "[{matchExpressions: [{key: kubernetes.io/os, operator: Exists}]}, {}]",
            "node:kubernetes.io/os & reserved:remote-node=, reserved:remote-node=",
        ),
    ],
)
def test_nodes_by_their_labels(selectors: str, expected: str, section: str, clusterwide: bool) -> None:
    """Of whatever section: other nodes alone, no namespace is implied, and no pod can be meant."""
    field = "fromNodes" if section.startswith("ingress") else "toNodes"
    (found,) = compiled(f"{section}: [{{{field}: {selectors}}}]", clusterwide=clusterwide, nodes=True).rules
    assert rule(found) == f"{'deny' if section.endswith('Deny') else 'allow'} {expected} : *"


@pytest.mark.parametrize(
    ("operator", "who"),
    [("Exists", "any:app=web"), ("In", "any:app=web"), ("DoesNotExist", "any:app=web & k8s:NS"), ("NotIn", "any:app=web & k8s:NS")],
)
def test_who_governs_pods_without_labels_means_anybody(operator: str, who: str) -> None:
    """A pod that nobody has told of yet has no namespace: a policy of it, and of it alone, implies none of others."""
    spec = f"{{endpointSelector: {word('init', operator)}, egress: [{{toEndpoints: [{{matchLabels: {{app: web}}}}]}}]}}"
    (found,) = compiled(spec, clusterwide=True).rules
    assert [peer(each) for each in found.peers or ()] == [who]


@pytest.mark.parametrize("nodes", [False, True])
def test_a_key_of_a_node_that_is_none_is_refused_with_and_without_the_setting(nodes: bool) -> None:
    with pytest.raises(InvalidError, match=r"needs a key") as refused:
        compiled("ingress: [{fromNodes: [{}, {matchLabels: {'node:': b}}]}]", nodes=nodes)
    assert refused.value.path == "spec.ingress[0].fromNodes[1]"


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("{toNodes: [{}]}", "deny reserved:remote-node= : * ! spec.egressDeny[0].toNodes"),
        ("{toGroups: [{aws: {region: r}}]}", "deny 0.0.0.0/0 OUTSIDE, ::/0 OUTSIDE : * ! spec.egressDeny[0].toGroups"),
        (
            "{toServices: [{k8sService: {serviceName: unknown}}]}",
            "deny 0.0.0.0/0 OUTSIDE, ::/0 OUTSIDE : *",
        ),
        (
            "{toCIDRSet: [{cidrGroupRef: unknown}], toPorts: [{ports: [{port: '80', protocol: tcp}]}]}",
            "deny 0.0.0.0/0 OUTSIDE, ::/0 OUTSIDE : 6/80",
        ),
    ],
)
def test_a_denied_peer_that_is_not_known_is_denied_with_all_it_could_be(element: str, expected: str) -> None:
    assert "; ".join(rule(each) for each in compiled(f"egressDeny: [{element}]").rules) == expected


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("{fromEndpoints: [{}]}", "allow k8s:NS : *"),
        ("{fromEndpoints: [{matchLabels: {app: a}}]}", "allow any:app=a & k8s:NS : *"),
        ("{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}", "allow reserved:host= : *"),
    ],
)
def test_clusterwide_peers_are_pods(element: str, expected: str) -> None:
    found = compiled(f"ingress: [{element}]", clusterwide=True)
    assert "; ".join(rule(each) for each in found.rules) == expected
    assert found.subject == Selector()


def test_clusterwide_peers_of_init_are_anybody() -> None:
    found = compiled("{endpointSelector: {matchLabels: {'reserved:init': ''}}, ingress: [{fromEndpoints: [{}]}]}", clusterwide=True)
    assert [rule(each) for each in found.rules] == ["allow everything : *"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("{}", "k8s:NS=N"),
        ("{matchLabels: {app: a}}", "any:app=a & k8s:NS=N"),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': M}}", "k8s:NS=N"),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': N}}", "k8s:NS=N"),
        ("{matchLabels: {io.kubernetes.pod.namespace: M}}", "any:NS=M & k8s:NS=N"),
    ],
)
def test_subject_is_in_its_own_namespace(selector: str, expected: str) -> None:
    assert peer(compiled(f"endpointSelector: {selector}").subject) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", (False, False)),
        ("{ingress: [], egress: []}", (False, False)),
        ("{ingress: [{}]}", (True, False)),
        ("{egressDeny: [{}]}", (False, True)),
        ("{ingress: [{}], egress: [{}]}", (True, True)),
        ("{ingress: [{}], enableDefaultDeny: {ingress: false}}", (False, False)),
        ("{ingress: [{}], enableDefaultDeny: {egress: true}}", (True, True)),
        ("{ingress: [{}], enableDefaultDeny: {egress: false}}", (True, False)),
        ("{ingress: [], enableDefaultDeny: {ingress: true}}", (True, False)),
    ],
)
def test_default_deny(spec: str, expected: tuple[bool, bool]) -> None:
    assert compiled(spec).default_deny == expected


@pytest.mark.parametrize(
    ("selector", "governed", "not_governed"),
    [
        ({}, "reserved:host node:a=b", "reserved:remote-node node:a=b"),
        ({"matchLabels": {"role": "edge"}}, "reserved:host node:role=edge", "reserved:host k8s:role=edge"),
        ({"matchLabels": {"k8s:role": "edge"}}, "reserved:host node:role=edge", "reserved:host"),
        ({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}, "reserved:host", "reserved:host node:role="),
        ({"matchLabels": {"node:role": "edge"}}, "reserved:host node:role=edge", "node:role=edge"),
    ],
)
def test_a_policy_about_nodes(selector: dict[str, object], governed: str, not_governed: str) -> None:
    """Its subjects are hosts with these labels of their Node objects."""
    held = policy({}, clusterwide=True) | {"spec": {"nodeSelector": selector, "ingress": [{"fromEntities": ["all"]}]}}
    (found,) = policies_of(held, cluster="blue")
    assert (found.default_deny, found.host, len(found.rules), found.unenforced) == ((True, False), True, 1, ())
    assert found.subject.matches(labels(*governed.split()))
    assert not found.subject.matches(labels(*not_governed.split()))


def test_a_policy_about_nodes_without_the_host_firewall() -> None:
    held = policy({}, clusterwide=True) | {"spec": {"nodeSelector": {}, "ingress": [{"fromEntities": ["all"]}]}}
    (found,) = resolve(drafts_of(held, cluster="blue", hosts=False))
    assert (found.default_deny, found.rules, found.unenforced) == ((False, False), (), ("spec.nodeSelector",))
    assert not found.subject.matches(labels("reserved:host"))


def test_what_a_policy_about_nodes_requires_binds_no_pods() -> None:
    about_nodes = policy({}, clusterwide=True) | {
        "spec": {"nodeSelector": {}, "ingress": [{"fromRequires": [{"matchLabels": {"safe": "yes"}}]}]}
    }
    about_pods = policy("ingress: [{fromEndpoints: [{}]}]")
    drafts = [*drafts_of(about_nodes, cluster="blue"), *drafts_of(about_pods, cluster="blue")]
    pods = [each for each in resolve(drafts) if not each.host]
    assert pods == list(policies_of(about_pods, cluster="blue"))


def test_spec_and_specs_both_hold_and_say_where_they_stand() -> None:
    held = policy("ingress: [{fromEntities: [host]}]")
    held["specs"] = [{"endpointSelector": {}}, {"endpointSelector": {}, "egressDeny": [{}, {"toEntities": ["world"]}]}]
    held["metadata"]["uid"] = "u"
    found = policies_of(held, cluster="blue")
    assert [each.origin.path for each in found] == ["spec", "specs[0]", "specs[1]"]
    assert [each.origin.path for each in found[2].rules] == ["specs[1].egressDeny[0]", "specs[1].egressDeny[1]"]
    assert str(found[2].rules[1].origin) == "CiliumNetworkPolicy N/p specs[1].egressDeny[1]"
    assert found[0].origin.uid == "u"


def test_a_policy_without_a_namespace_is_in_default() -> None:
    held = policy("{}")
    del held["metadata"]["namespace"]
    (found,) = policies_of(held, cluster="blue")
    assert peer(found.subject) == "k8s:NS=default"


@pytest.mark.parametrize("key", ["k8s:", "other:", "k8s:=a", "app=web"])
def test_a_key_that_is_none_is_named(key: str) -> None:
    """The API server takes some of these: it looks at no key of a map but those that it is told."""
    with pytest.raises(InvalidError, match="needs a key") as caught:
        compiled(f"ingress: [{{fromEndpoints: [{{}}, {{matchLabels: {{'{key}': a}}}}]}}]")
    assert caught.value.path == "spec.ingress[0].fromEndpoints[1]"
