"""AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy: tiers above and below the others.

Their subjects and peers are pods: a node, or who is outside, is meant by nothing but `networks`.
"""

from typing import Final

from e2e.scenarios.truth.ask import NODE
from e2e.scenarios.truth.case import AUDIT, Case, anp, banp, cnp, into, knp, nothing, out_of, spelled, tier

_WORDS: Final = {
    "x": "subject: {namespaces: {matchLabels: {ns: x}}}",
    "x_a": "subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}",
    "y": "[{namespaces: {matchLabels: {ns: y}}}]",
    "z": "[{namespaces: {matchLabels: {ns: z}}}]",
    "every": "[{namespaces: {}}]",
    "b": "[{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]",
    "closed": knp("x", "podSelector: {}, policyTypes: [Ingress]", "closed"),
}
CASES: Final = spelled(
    _WORDS,
    [
        Case("a namespace denied", anp(10, "$x, ingress: [{action: Deny, from: $y}]"), lambda q: q.to_ns == "x" and q.by_ns == "y"),
        Case(
            "pods denied, of any namespace",
            anp(10, "$x_a, ingress: [{action: Deny, from: $b}]"),
            lambda q: q.to == "x/a" and q.by_pod == "b",
        ),
        Case("an allow alone closes nothing", anp(10, "$x, ingress: [{action: Allow, from: $y}]"), nothing),
        Case(
            "the first rule holds",
            anp(10, "$x, ingress: [{action: Allow, from: $y}, {action: Deny, from: $every}]"),
            lambda q: q.to_ns == "x" and q.by_ns in ("x", "z"),
        ),
        Case(
            "the lower priority holds",
            anp(20, "$x, ingress: [{action: Deny, from: $every}]")
            + anp(10, "$x_a, ingress: [{action: Allow, from: $b}]", "second"),
            lambda q: q.to_ns == "x" and q.by_is_pod and not (q.to == "x/a" and q.by_pod == "b"),
        ),
        Case(
            "an allow over Kubernetes' default deny",
            "$closed" + anp(10, "$x, ingress: [{action: Allow, from: $y}]"),
            lambda q: q.to_ns == "x" and q.by_ns != "y",
        ),
        Case(
            "a deny over Kubernetes' allow",
            knp("x", "podSelector: {}, ingress: [{}]") + anp(10, "$x, ingress: [{action: Deny, from: $y}]"),
            lambda q: q.to_ns == "x" and q.by_ns == "y",
        ),
        Case(
            "allowed over a deny of cilium.io",
            cnp("x", "endpointSelector: {}, ingressDeny: [{fromEntities: [all]}]")
            + anp(10, "$x, ingress: [{action: Allow, from: $y}]"),
            lambda q: q.to_ns == "x" and q.by_ns != "y",
        ),
        Case(
            "passed on to Kubernetes' policies, past a later deny",
            knp(
                "x",
                "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}, "
                "podSelector: {matchLabels: {pod: b}}}]}]",
            )
            + anp(10, "$x, ingress: [{action: Pass, from: $y}, {action: Deny, from: $every}]"),
            lambda q: (q.to == "x/a" and q.by != "y/b") or (q.to in ("x/b", "x/c") and q.by_ns in ("x", "z")),
        ),
        Case(
            "passed on to the baseline",
            anp(10, "$x, ingress: [{action: Pass, from: $y}, {action: Allow, from: $z}]")
            + banp("$x, ingress: [{action: Deny, from: $every}]"),
            lambda q: q.to_ns == "x" and q.by_ns in ("x", "y"),
            short=True,
        ),
        Case(
            "the baseline",
            banp("subject: {namespaces: {}}, ingress: [{action: Allow, from: $b}, {action: Deny, from: $every}]"),
            lambda q: q.to_is_pod and q.by_is_pod and q.by_pod != "b",
        ),
        Case(
            "policies before the baseline",
            knp("x", "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]")
            + banp("$x, ingress: [{action: Deny, from: $every}]"),
            lambda q: (q.to == "x/a" and q.by_ns != "y") or (q.to in ("x/b", "x/c") and q.by_is_pod),
        ),
        Case("egress of the baseline", banp("$x, egress: [{action: Deny, to: $y}]"), lambda q: q.by_ns == "x" and q.to_ns == "y"),
        # -- ports and addresses ---------------------------------------------------------------------------------------------
        Case(
            "a port",
            anp(10, "$x, egress: [{action: Deny, to: $every, ports: [{portNumber: {port: 80, protocol: UDP}}]}]"),
            lambda q: q.by_ns == "x" and q.to_is_pod and (q.port, q.protocol) == (80, "UDP"),
        ),
        Case(
            "a range and a name",
            anp(
                10,
                "$x, ingress: [{action: Deny, from: $y, ports: [{portRange: {start: 81, end: 82, protocol: SCTP}}, "
                "{namedPort: serve-80-tcp}]}]",
            ),
            lambda q: q.to_ns == "x" and q.by_ns == "y" and (q.port, q.protocol) in ((81, "SCTP"), (80, "TCP")),
        ),
        Case(
            "a name in egress",
            anp(10, "$x_a, egress: [{action: Allow, to: $y, ports: [{namedPort: serve-81-udp}]}, {action: Deny, to: $every}]"),
            lambda q: q.by == "x/a" and q.to_is_pod and not (q.to_ns == "y" and (q.port, q.protocol) == (81, "UDP")),
        ),
        Case(
            "networks",
            anp(
                10,
                "$x_a, egress: [{action: Allow, to: [{networks: [198.51.100.0/24, @y/b/4/32]}]}, {action: Deny, "
                "to: [{networks: [0.0.0.0/0]}]}]",
            ),
            lambda q: q.by == "x/a" and q.family == 4 and q.to not in ("w/a", "y/b"),
            short=True,
        ),
        Case(
            "networks of another family, a port of them",
            anp(
                10,
                "$x, egress: [{action: Deny, to: [{networks: ['2001:db8:71::/48']}], ports: [{portNumber: {port: 80, "
                "protocol: TCP}}]}]",
            ),
            lambda q: q.by_ns == "x" and (q.to, q.family, q.port, q.protocol) == ("w/b", 6, 80, "TCP"),
        ),
        # -- ClusterNetworkPolicy --------------------------------------------------------------------------------------------
        Case(
            "ClusterNetworkPolicy: denied",
            tier("Admin", 10, "$x, ingress: [{action: Deny, from: $y}]"),
            lambda q: q.to_ns == "x" and q.by_ns == "y",
        ),
        Case(
            "ClusterNetworkPolicy: accepted over a default deny",
            "$closed"
            + tier(
                "Admin",
                10,
                "$x, ingress: [{action: Accept, from: $y, protocols: [{tcp: {destinationPort: {number: 80}}}, "
                "{udp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]",
            ),
            lambda q: q.to_ns == "x" and not (q.by_ns == "y" and (q.protocol == "UDP" or (q.port, q.protocol) == (80, "TCP"))),
        ),
        Case(
            "ClusterNetworkPolicy: protocols",
            tier(
                "Admin",
                10,
                "$x, egress: [{action: Deny, to: $every, protocols: [{sctp: {destinationPort: {range: {start: 1, end: 65535}}}}, "
                "{tcp: {destinationPort: {range: {start: 81, end: 99}}}}, {destinationNamedPort: serve-80-udp}]}]",
            ),
            lambda q: (
                q.by_ns == "x" and q.to_is_pod and (q.protocol == "SCTP" or (q.port, q.protocol) in ((81, "TCP"), (80, "UDP")))
            ),
        ),
        Case(
            "ClusterNetworkPolicy: both tiers",
            tier("Admin", 10, "$x, ingress: [{action: Pass, from: $y}, {action: Deny, from: $z}]")
            + tier("Baseline", 5, "$x, ingress: [{action: Deny, from: $b}]", "second"),
            lambda q: q.to_ns == "x" and (q.by_ns == "z" or q.by_pod == "b"),
        ),
        Case(
            "ClusterNetworkPolicy beside AdminNetworkPolicy: of one priority the denial",
            tier("Admin", 10, "$x, ingress: [{action: Accept, from: $every}]") + anp(10, "$x, ingress: [{action: Deny, from: $y}]"),
            lambda q: q.to_ns == "x" and q.by_ns == "y",
        ),
        # -- in other ways ---------------------------------------------------------------------------------------------------
        Case(
            "what is not in force: names are nobody, nodes are denied as they stand",
            anp(10, "$x, egress: [{action: Allow, to: [{domainNames: [a.example]}]}, {action: Deny, to: [{nodes: {}}]}]"),
            lambda q: q.by_ns == "x" and q.to_ns == NODE,
        ),
        Case(
            "both directions",
            anp(10, "$x_a, ingress: [{action: Deny, from: $every}], egress: [{action: Deny, to: $every}]"),
            lambda q: "x/a" in (q.to, q.by) and q.to_is_pod and q.by_is_pod,
        ),
        Case("in audit", anp(10, "$x, ingress: [{action: Deny, from: $every}]", more=AUDIT), nothing),
        Case(
            "an allow in audit allows nothing",
            "$closed" + anp(10, "$x, ingress: [{action: Allow, from: $every}]", more=AUDIT),
            into("x"),
        ),
        Case(
            "every pod may be spoken to, and none speaks",
            anp(0, "$x, egress: [{action: Deny, to: [{namespaces: {}}, {networks: [0.0.0.0/0, '::/0']}]}]"),
            out_of("x"),
        ),
    ],
)
