"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: the same shapes, and what that language has more."""

from typing import Final

from e2e.scenarios.truth.ask import NODE, OUTSIDE
from e2e.scenarios.truth.case import AUDIT, Case, ccnp, cnp, cnps, group, into, knp, nothing, out_of, spelled

_WORDS: Final = {
    "to_a": "endpointSelector: {matchLabels: {pod: a}}",
    "every": "endpointSelector: {}",
    "b": "{matchLabels: {pod: b}}",
    "space": "'k8s:io.kubernetes.pod.namespace'",
    "space_label": "'k8s:io.cilium.k8s.namespace.labels.ns'",
    "in_y": "{matchLabels: {'k8s:io.kubernetes.pod.namespace': y}}",
    "open": "enableDefaultDeny: {ingress: false, egress: false}",
}
CASES: Final = spelled(
    _WORDS,
    [
        Case("nobody may come in", cnp("x", "$every, ingress: [{}]"), into("x")),
        Case("nobody may go out", cnp("x", "$every, egress: [{}]"), out_of("x")),
        Case("an empty list of rules says nothing", cnp("x", "$every, ingress: [], egress: []"), nothing),
        Case("an empty list of peers is nobody", cnp("x", "$to_a, ingress: [{fromEndpoints: []}]"), into("x/a")),
        Case("from an endpoint", cnp("x", "$to_a, ingress: [{fromEndpoints: [$b]}]"), lambda q: q.to == "x/a" and q.by != "x/b"),
        Case(
            "from its own namespace",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [{}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "x",
        ),
        Case(
            "from another namespace",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [$in_y]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "y",
        ),
        Case(
            "from a pod of another namespace",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [{matchLabels: {$space: y, pod: b}}]}]"),
            lambda q: q.to == "x/a" and q.by != "y/b",
        ),
        Case(
            "from a namespace by its label",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [{matchLabels: {$space_label: z}}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "z",
        ),
        Case(
            "from every namespace, by an expression",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [{matchExpressions: [{key: $space, operator: Exists}]}]}]"),
            lambda q: q.to == "x/a" and not q.by_is_pod,
        ),
        Case(
            "expressions: what is not in a list",
            cnp(
                "x",
                "endpointSelector: {matchExpressions: [{key: pod, operator: In, values: [a, c]}]}, ingress: [{fromEndpoints: ["
                "{matchExpressions: [{key: $space, operator: NotIn, values: [z]}, {key: pod, operator: NotIn, values: [a]}]}]}]",
            ),
            # Nodes have no such labels: NotIn holds of them.
            lambda q: q.to in ("x/a", "x/c") and q.by_ns != NODE and not (q.by_ns in ("x", "y") and q.by_pod in ("b", "c")),
            short=True,
        ),
        Case(
            "a label of any source",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [{matchLabels: {'any:pod': c}}]}]"),
            lambda q: q.to == "x/a" and q.by != "x/c",
        ),
        Case("to an endpoint", cnp("x", "$to_a, egress: [{toEndpoints: [$b]}]"), lambda q: q.by == "x/a" and q.to != "x/b"),
        Case(
            "to another namespace",
            cnp("x", "$every, egress: [{toEndpoints: [$in_y]}]"),
            lambda q: q.by_ns == "x" and q.to_ns != "y",
        ),
        Case(
            "ingress and egress of one policy",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [$b]}], egress: [{toEndpoints: [$in_y]}]"),
            lambda q: (q.to == "x/a" and q.by != "x/b") or (q.by == "x/a" and q.to_ns != "y"),
        ),
        Case(
            "several specs",
            cnps("x", "{$to_a, ingress: [{fromEndpoints: [$b]}]}, {endpointSelector: $b, egress: [{toEndpoints: [$in_y]}]}"),
            lambda q: (q.to == "x/a" and q.by != "x/b") or (q.by == "x/b" and q.to_ns != "y"),
        ),
        Case(
            "a condition on every policy's peers",
            cnp("x", "$every, ingress: [{fromRequires: [{matchLabels: {$space_label: y}}]}]")
            + cnp("x", "$to_a, ingress: [{fromEndpoints: [{matchExpressions: [{key: $space, operator: Exists}]}]}]", "second"),
            lambda q: q.to_ns == "x" and not (q.to == "x/a" and q.by_ns == "y"),
        ),
        # -- ports -----------------------------------------------------------------------------------------------------------
        Case(
            "a port of both protocols",
            cnp("x", "$to_a, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}, {port: '80', protocol: UDP}]}]}]"),
            lambda q: q.to == "x/a" and (q.port != 80 or q.protocol == "SCTP"),
        ),
        Case(
            "ANY is three protocols",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [$b], toPorts: [{ports: [{port: '81', protocol: ANY}]}]}]"),
            lambda q: q.to == "x/a" and not (q.by == "x/b" and q.port == 81),
            short=True,
        ),
        Case(
            "port 0 is every port",
            cnp("x", "$to_a, ingress: [{toPorts: [{ports: [{port: '0', protocol: UDP}]}]}]"),
            lambda q: q.to == "x/a" and q.protocol != "UDP",
        ),
        Case(
            "a range of ports",
            cnp("x", "$to_a, egress: [{toPorts: [{ports: [{port: '81', endPort: 90, protocol: TCP}]}]}]"),
            lambda q: q.by == "x/a" and (q.port, q.protocol) != (81, "TCP"),
        ),
        Case(
            "named ports",
            cnp("x", "$to_a, ingress: [{toPorts: [{ports: [{port: serve-80-tcp}, {port: serve-81-udp, protocol: UDP}]}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) not in ((80, "TCP"), (81, "UDP")),
        ),
        Case(
            "named ports of egress",
            cnp("x", "$to_a, egress: [{toEndpoints: [$in_y], toPorts: [{ports: [{port: serve-80-tcp, protocol: TCP}]}]}]"),
            lambda q: q.by == "x/a" and not (q.to_ns == "y" and (q.port, q.protocol) == (80, "TCP")),
        ),
        Case("no port", cnp("x", "$to_a, ingress: [{toPorts: [{}]}]"), into("x/a")),
        Case("an empty list of ports", cnp("x", "$to_a, ingress: [{fromEntities: [all], toPorts: []}]"), nothing),
        # -- entities --------------------------------------------------------------------------------------------------------
        Case("the cluster", cnp("x", "$every, ingress: [{fromEntities: [cluster]}]"), nothing),
        Case("the world", cnp("x", "$every, ingress: [{fromEntities: [world]}]"), into("x")),
        Case(
            "the world and the cluster, of egress",
            cnp("x", "$to_a, egress: [{toEntities: [world]}]") + cnp("y", "$to_a, egress: [{toEntities: [cluster]}]"),
            lambda q: (q.by == "x/a" and q.to_ns != OUTSIDE) or (q.by == "y/a" and q.to_ns == OUTSIDE),
        ),
        Case("all", cnp("x", "$every, ingress: [{fromEntities: [all]}], egress: [{toEntities: [all]}]"), nothing),
        Case(
            "who is no pod and no node here",
            cnp("x", "$to_a, ingress: [{fromEntities: [none, init, unmanaged, kube-apiserver, health, ingress]}]"),
            into("x/a"),
        ),
        Case(
            "nodes",
            cnp("x", "$every, ingress: [{fromEntities: [host, remote-node]}]"),
            lambda q: q.to_ns == "x" and q.by_ns != NODE,
        ),
        Case(
            "its own node, and the other one",
            cnp("x", "$to_a, egress: [{toEntities: [host]}]")
            + cnp("x", "endpointSelector: $b, egress: [{toEntities: [remote-node]}]", "second"),  # x/a is on n1, x/b on n2
            lambda q: q.by in ("x/a", "x/b") and q.to != "n/1",
        ),
        # -- deny ------------------------------------------------------------------------------------------------------------
        Case(
            "a deny over an allow",
            cnp("x", "$every, ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [$in_y]}]"),
            lambda q: q.to_ns == "x" and q.by_ns == "y",
        ),
        Case(
            "a deny over an allow of another policy, a port of it",
            cnp("x", "$to_a, ingress: [{fromEntities: [all]}]")
            + ccnp("$to_a, $open, ingressDeny: [{fromEndpoints: [$b], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]"),
            lambda q: q.to_pod == "a" and q.to_is_pod and q.by_pod == "b" and (q.port, q.protocol) == (80, "TCP"),
            short=True,
        ),
        Case("a deny alone closes the direction", cnp("x", "$to_a, ingressDeny: [{fromEndpoints: [$b]}]"), into("x/a")),
        Case(
            "a deny without default deny",
            cnp("x", "$to_a, $open, ingressDeny: [{fromEndpoints: [$b]}], egressDeny: [{toEndpoints: [$in_y]}]"),
            lambda q: (q.to, q.by) == ("x/a", "x/b") or (q.by == "x/a" and q.to_ns == "y"),
        ),
        Case("an allow without default deny", cnp("x", "$to_a, $open, ingress: [{fromEndpoints: [$b]}]"), nothing),
        Case(
            "a deny over Kubernetes' allow",
            knp("x", "podSelector: {}, ingress: [{}]") + cnp("x", "$to_a, $open, ingressDeny: [{fromEntities: [remote-node]}]"),
            lambda q: q.to == "x/a" and q.by_ns == NODE,
        ),
        Case(
            "an allow of one kind beside the default deny of another",
            knp("x", "podSelector: {}, policyTypes: [Ingress]") + cnp("x", "$to_a, ingress: [{fromEndpoints: [$b]}]"),
            lambda q: q.to_ns == "x" and (q.to, q.by) != ("x/a", "x/b"),
        ),
        Case(
            "ports of egress denied to everybody",
            cnp("x", "$every, egress: [{toEntities: [all]}], egressDeny: [{toPorts: [{ports: [{port: '81', protocol: ANY}]}]}]"),
            lambda q: q.by_ns == "x" and q.port == 81,
        ),
        Case(
            "a named port denied",
            cnp("x", "$to_a, $open, ingressDeny: [{toPorts: [{ports: [{port: serve-81-sctp, protocol: SCTP}]}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) == (81, "SCTP"),
        ),
        # -- addresses -------------------------------------------------------------------------------------------------------
        Case(
            "everywhere is outside",
            cnp("x", "$to_a, ingress: [{fromCIDR: [0.0.0.0/0, '::/0']}], egress: [{toCIDR: [0.0.0.0/0, '::/0']}]"),
            lambda q: q.to == "x/a" or (q.by == "x/a" and q.to_ns != OUTSIDE),
        ),
        Case("a pod's address is no pod", cnp("x", "$to_a, egress: [{toCIDR: [@y/b/4/32]}]"), out_of("x/a")),
        Case(
            "to addresses outside but some",
            cnp(
                "x",
                "$to_a, egress: [{toCIDRSet: [{cidr: 192.0.0.0/2, except: [198.51.0.0/16]}, {cidr: '2001:db8::/32', "
                "except: ['2001:db8:71::/48']}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
            ),
            lambda q: q.by == "x/a" and not ((q.to, q.family) in (("w/b", 4), ("w/a", 6)) and (q.port, q.protocol) == (80, "TCP")),
            short=True,
        ),
        Case(
            "addresses outside denied",
            cnp(
                "x",
                "$every, $open, egressDeny: [{toCIDR: [203.0.113.0/24]}, {toCIDRSet: [{cidr: '2001:db8::/32', "
                "except: ['2001:db8:71::/48']}]}]",
            ),
            lambda q: q.by_ns == "x" and (q.to, q.family) in (("w/b", 4), ("w/a", 6)),
        ),
        Case(
            "a broad deny over a narrow allow",
            cnp("x", "$to_a, egress: [{toEntities: [all]}, {toCIDR: [198.51.100.9/32]}], egressDeny: [{toCIDR: [198.0.0.0/8]}]"),
            lambda q: q.by == "x/a" and (q.to, q.family) == ("w/a", 4),
        ),
        Case(
            "a group of addresses",
            group("offices", "198.51.100.0/24, '2001:db8:71::/48'")
            + cnp("x", "$to_a, egress: [{toCIDRSet: [{cidrGroupRef: offices}]}]"),
            lambda q: q.by == "x/a" and (q.to, q.family) not in (("w/a", 4), ("w/b", 6)),
        ),
        Case("a group that is not there", cnp("x", "$to_a, egress: [{toCIDRSet: [{cidrGroupRef: none}]}]"), out_of("x/a")),
        # -- the whole cluster -----------------------------------------------------------------------------------------------
        Case(
            "clusterwide: an endpoint of any namespace",
            ccnp("$to_a, ingress: [{fromEndpoints: [$b]}]"),
            lambda q: q.to_is_pod and q.to_pod == "a" and q.by_pod != "b",
        ),
        Case("clusterwide: every pod", ccnp("$every, ingress: [{fromEndpoints: [{}]}]"), lambda q: q.to_is_pod and not q.by_is_pod),
        Case(
            "clusterwide: a namespace",
            ccnp("endpointSelector: {matchLabels: {$space: y}}, egress: [{toEntities: [cluster]}]"),
            lambda q: q.by_ns == "y" and q.to_ns == OUTSIDE,
        ),
        Case(
            "clusterwide: denied between namespaces",
            ccnp(
                "endpointSelector: {matchLabels: {$space_label: x}}, $open, "
                "ingressDeny: [{fromEndpoints: [{matchExpressions: [{key: $space_label, operator: NotIn, "
                "values: [x]}, {key: $space, operator: Exists}]}]}]"
            ),
            lambda q: q.to_ns == "x" and q.by_ns in ("y", "z"),
        ),
        # -- in other ways ---------------------------------------------------------------------------------------------------
        Case(
            "what is not in force opens nothing",
            cnp(
                "x",
                "$to_a, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}], "
                "egress: [{toFQDNs: [{matchName: a.example}]}]",
            ),
            lambda q: "x/a" in (q.to, q.by),
        ),
        Case(
            "what would be restricted is closed although another policy allows it",
            cnp(
                "x",
                "$to_a, ingress: [{fromEndpoints: [$b], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
            )
            + cnp("x", "$to_a, ingress: [{fromEndpoints: [{}]}]", "second"),
            lambda q: q.to == "x/a" and (q.by_ns != "x" or (q.by == "x/b" and (q.port, q.protocol) == (80, "TCP"))),
        ),
        Case(
            "a plain rule beside one of HTTP, for the same peers at the same port",
            cnp(
                "x",
                "$to_a, ingress: [{fromEndpoints: [$b], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
            )
            + cnp("x", "$to_a, ingress: [{fromEndpoints: [$b], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]", "second"),
            lambda q: q.to == "x/a" and not (q.by == "x/b" and (q.port, q.protocol) == (80, "TCP")),
        ),
        Case(
            "authentication, beside everybody",
            cnp("x", "$to_a, ingress: [{fromEndpoints: [$b], authentication: {mode: required}}]")
            + cnp("x", "$to_a, ingress: [{fromEntities: [all]}]", "second"),
            lambda q: (q.to, q.by) == ("x/a", "x/b"),
        ),
        Case("in audit", cnp("x", "$every, ingress: [{}], egressDeny: [{toEntities: [all]}]", more=AUDIT), nothing),
        Case(
            "in audit beside one that is not",
            ccnp("$every, ingress: [{}], egress: [{}]", more=AUDIT) + cnp("x", "$to_a, ingress: [{fromEndpoints: [$b]}]", "second"),
            lambda q: q.to == "x/a" and q.by != "x/b",
            short=True,
        ),
    ],
)
