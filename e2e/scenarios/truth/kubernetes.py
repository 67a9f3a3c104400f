"""NetworkPolicy: the shapes of Kubernetes' own end-to-end tests, and what is beside them."""

from typing import Final

from e2e.scenarios.truth.case import AUDIT, Case, into, knp, nothing, out_of, spelled

_WORDS: Final = {
    "to_a": "podSelector: {matchLabels: {pod: a}}",
    "from_b": "podSelector: {matchLabels: {pod: b}}",
    "ns_y": "namespaceSelector: {matchLabels: {ns: y}}",
    "in": "policyTypes: [Ingress]",
    "out": "policyTypes: [Egress]",
}
CASES: Final = spelled(
    _WORDS,
    [
        Case("default deny ingress", knp("x", "podSelector: {}, $in"), into("x")),
        Case("default deny egress", knp("x", "podSelector: {}, $out"), out_of("x")),
        Case(
            "default deny all",
            knp("x", "podSelector: {}, policyTypes: [Ingress, Egress]"),
            lambda q: "x" in (q.to_ns, q.by_ns),
            short=True,
        ),
        Case("a policy on nobody", knp("x", "podSelector: {matchLabels: {pod: none}}, $in"), nothing),
        Case("no type given is ingress", knp("x", "$to_a"), into("x/a")),
        Case("egress rules make it egress too", knp("x", "$to_a, egress: [{}]"), into("x/a")),
        Case(
            "rules of a type that is not listed mean nothing",
            knp("x", "$to_a, $in, ingress: [{}], egress: [{to: [{$from_b}]}]"),
            nothing,
        ),
        Case(
            "from a pod of its own namespace",
            knp("x", "$to_a, ingress: [{from: [{$from_b}]}]"),
            lambda q: q.to == "x/a" and q.by != "x/b",
        ),
        Case(
            "from every pod of its own namespace",
            knp("x", "$to_a, ingress: [{from: [{podSelector: {}}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "x",
        ),
        Case(
            "from a namespace",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "y",
        ),
        Case(
            "from every namespace",
            knp("x", "$to_a, ingress: [{from: [{namespaceSelector: {}}]}]"),
            lambda q: q.to == "x/a" and not q.by_is_pod,
        ),
        Case(
            "from anybody: no from, and one that is empty",
            knp("x", "podSelector: {}, ingress: [{}]") + knp("y", "podSelector: {}, ingress: [{from: []}]"),
            nothing,
        ),
        Case(
            "from a namespace by the label that each has",
            knp("x", "$to_a, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "z",
        ),
        Case(
            "from namespaces but one by the label that each has",
            knp(
                "x",
                "$to_a, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, "
                "operator: NotIn, values: [z]}]}}]}]",
            ),
            lambda q: q.to == "x/a" and q.by_ns not in ("x", "y"),
        ),
        Case(
            "an expression of pods",
            knp("x", "$to_a, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}]"),
            lambda q: q.to == "x/a" and q.by != "x/b",
        ),
        Case(
            "an expression of namespaces",
            knp("x", "$to_a, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y]}]}}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "y",
        ),
        Case(
            "expressions: a label that is not there",
            knp(
                "x",
                "podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}, "
                "ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: Exists}, {key: pod, "
                "operator: NotIn, values: [b]}]}}]}]",
            ),
            lambda q: q.to_ns == "x" and q.by not in ("x/a", "x/c"),
        ),
        Case(
            "a pod or a namespace",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}, {$from_b}]}]"),
            lambda q: q.to == "x/a" and q.by_ns != "y" and q.by != "x/b",
        ),
        Case(
            "a pod in a namespace",
            knp("x", "$to_a, ingress: [{from: [{$ns_y, $from_b}]}]"),
            lambda q: q.to == "x/a" and q.by != "y/b",
        ),
        Case(
            "several pods in several namespaces",
            knp(
                "x",
                "$to_a, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, "
                "values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}]",
            ),
            lambda q: q.to == "x/a" and not (q.by_ns in ("y", "z") and q.by_pod in ("b", "c")),
            short=True,
        ),
        # -- ports -----------------------------------------------------------------------------------------------------------
        Case(
            "a port of a namespace",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}], ports: [{port: 81, protocol: TCP}]}]"),
            lambda q: q.to == "x/a" and not (q.by_ns == "y" and q.port == 81 and q.protocol == "TCP"),
        ),
        Case(
            "a port, TCP unless it says so",
            knp("x", "$to_a, ingress: [{ports: [{port: 81}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) != (81, "TCP"),
        ),
        Case(
            "a named port",
            knp("x", "$to_a, ingress: [{ports: [{port: serve-80-tcp}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) != (80, "TCP"),
        ),
        Case(
            "a named port of a namespace",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}], ports: [{port: serve-80-tcp}]}]"),
            lambda q: q.to == "x/a" and not (q.by_ns == "y" and (q.port, q.protocol) == (80, "TCP")),
        ),
        Case(
            "named ports of egress",
            knp("x", "$to_a, $out, egress: [{ports: [{port: serve-80-tcp}, {port: serve-81-udp, protocol: UDP}]}]"),
            lambda q: q.by == "x/a" and (not q.to_is_pod or (q.port, q.protocol) not in ((80, "TCP"), (81, "UDP"))),
            short=True,
        ),
        Case(
            "a named port of another protocol, and one that nobody has",
            knp("x", "$to_a, ingress: [{ports: [{port: serve-80-tcp, protocol: UDP}, {port: none}]}]"),
            into("x/a"),
        ),
        Case(
            "any port of a protocol",
            knp("x", "$to_a, ingress: [{ports: [{protocol: TCP}]}]"),
            lambda q: q.to == "x/a" and q.protocol != "TCP",
        ),
        Case("no port that anybody listens at", knp("x", "$to_a, ingress: [{ports: [{port: 79}]}]"), into("x/a")),
        Case("an empty list of ports", knp("x", "$to_a, ingress: [{ports: []}]"), nothing),
        Case(
            "a range of ports",
            knp("x", "$to_a, ingress: [{ports: [{port: 1, endPort: 80, protocol: UDP}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) != (80, "UDP"),
        ),
        Case(
            "UDP alone",
            knp("x", "$to_a, ingress: [{ports: [{port: 80, protocol: UDP}]}]"),
            lambda q: q.to == "x/a" and (q.port, q.protocol) != (80, "UDP"),
        ),
        Case(
            "UDP of egress, to a namespace",
            knp("x", "$to_a, $out, egress: [{to: [{$ns_y}], ports: [{protocol: UDP}]}]"),
            lambda q: q.by == "x/a" and not (q.to_ns == "y" and q.protocol == "UDP"),
        ),
        Case(
            "SCTP is no TCP",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}], ports: [{port: 81, protocol: SCTP}]}]"),
            lambda q: q.to == "x/a" and not (q.by_ns == "y" and (q.port, q.protocol) == (81, "SCTP")),
            short=True,
        ),
        Case(
            "SCTP by name, of egress",
            knp("x", "$to_a, $out, egress: [{ports: [{port: serve-80-sctp, protocol: SCTP}]}]"),
            lambda q: q.by == "x/a" and (q.port, q.protocol) != (80, "SCTP"),
        ),
        # -- several ---------------------------------------------------------------------------------------------------------
        Case(
            "policies add up",
            knp("x", "$to_a, ingress: [{from: [{$ns_y}], ports: [{port: 80}]}]")
            + knp("x", "$to_a, ingress: [{from: [{$ns_y}], ports: [{port: 81}]}]", "second"),
            lambda q: q.to == "x/a" and not (q.by_ns == "y" and q.protocol == "TCP"),
        ),
        Case(
            "allow all over deny all, ingress",
            knp("x", "podSelector: {}, $in") + knp("x", "podSelector: {}, $in, ingress: [{}]", "second"),
            nothing,
        ),
        Case(
            "allow all over deny all, egress",
            knp("x", "podSelector: {}, $out") + knp("x", "podSelector: {}, $out, egress: [{}]", "second"),
            nothing,
        ),
        Case(
            "who lets all in must not be let out",
            knp("x", "podSelector: {matchLabels: {pod: b}}, $out") + knp("x", "$to_a, ingress: [{}]", "second"),
            out_of("x/b"),
        ),
        Case(
            "ingress and egress together",
            knp("x", "$to_a, policyTypes: [Ingress, Egress], ingress: [{from: [{$from_b}]}], egress: [{to: [{$ns_y}]}]"),
            lambda q: (q.to == "x/a" and q.by != "x/b") or (q.by == "x/a" and q.to_ns != "y"),
        ),
        Case(
            "both sides have to allow",
            knp("x", "$to_a, $out, egress: [{to: [{$ns_y}], ports: [{port: 80}, {port: 81}]}]")
            + knp(
                "y", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 80}, {port: 80, protocol: UDP}]}]"
            ),
            lambda q: (
                (q.by == "x/a" and not (q.to_ns == "y" and q.protocol == "TCP"))
                or (q.to_ns == "y" and (not q.by_is_pod or q.port != 80 or q.protocol == "SCTP"))
            ),
        ),
        Case(
            "several egress policies, one of which closes",
            knp("x", "$to_a, $out")
            + knp("x", "$to_a, $out, egress: [{to: [{$ns_y}]}]", "second")
            + knp("x", "$to_a, $out, egress: [{to: [{$from_b}]}]", "third"),
            lambda q: q.by == "x/a" and q.to_ns != "y" and q.to != "x/b",
        ),
        Case(
            "to a pod",
            knp("x", "$to_a, $out, egress: [{to: [{$from_b}]}]"),
            lambda q: q.by == "x/a" and q.to != "x/b",
        ),
        # -- addresses -------------------------------------------------------------------------------------------------------
        Case(
            "a pod's address, in one family",
            knp("x", "$to_a, $out, egress: [{to: [{ipBlock: {cidr: @y/b/4/32}}]}]"),
            lambda q: q.by == "x/a" and (q.to, q.family) != ("y/b", 4),
        ),
        Case(
            "all addresses of a family but a pod's",
            knp("x", "$to_a, $out, egress: [{to: [{ipBlock: {cidr: '::/0', except: ['@y/b/6/128']}}]}]"),
            lambda q: q.by == "x/a" and (q.family == 4 or q.to == "y/b"),
            short=True,
        ),
        Case(
            "an exception is of its own entry",
            knp(
                "x",
                "$to_a, $out, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [@y/b/4/32]}}, {ipBlock: {cidr: @y/b/4/32}}]}]",
            ),
            lambda q: q.by == "x/a" and q.family == 6,
        ),
        Case(
            "an exception and a selector",
            knp(
                "x",
                "$to_a, $out, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [@y/b/4/32]}}]}, {to: [{$ns_y}], "
                "ports: [{port: 80}]}]",
            ),
            lambda q: (
                q.by == "x/a"
                and not ((q.family == 4 and q.to != "y/b") or (q.to_ns == "y" and (q.port, q.protocol) == (80, "TCP")))
            ),
        ),
        Case(
            "from pods' addresses",
            knp("x", "$to_a, ingress: [{from: [{ipBlock: {cidr: @x/b/4/32}}, {ipBlock: {cidr: '@z/c/6/128'}}]}]"),
            lambda q: q.to == "x/a" and (q.by, q.family) not in (("x/b", 4), ("z/c", 6)),
        ),
        Case(
            "from the range of all pods and routers, in one family",
            knp("x", "$to_a, ingress: [{from: [{ipBlock: {cidr: 10.44.0.0/16}}], ports: [{port: 80}]}]"),
            lambda q: q.to == "x/a" and (q.family, q.port, q.protocol) != (4, 80, "TCP"),
        ),
        Case(
            "to addresses outside",
            knp(
                "x",
                "$to_a, $out, egress: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: '2001:db8::/32', "
                "except: ['2001:db8:51::/48']}}]}]",
            ),
            lambda q: q.by == "x/a" and (q.to, q.family) not in (("w/a", 4), ("w/b", 6)),
        ),
        Case("in audit", knp("x", "podSelector: {}, policyTypes: [Ingress, Egress]", more=AUDIT), nothing),
    ],
)
