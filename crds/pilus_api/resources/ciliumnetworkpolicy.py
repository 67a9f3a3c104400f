"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

A model accepts what the API server accepts; what a rule means stands in pilus_api.policies.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilus_api.resources.kind import AGE, CILIUM_GROUP, Column, Kind
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.model import Model, Open, Resource, refused_unless
from pilus_api.resources.policypeers import Authentication, EgressDenyPeers, EgressPeers, IngressPeers
from pilus_api.resources.policyports import MAX_PORT_RULES, PortDenyRule, PortRule

# CEL's cost budget is one for a whole object, and the longest possible lists around a rule multiply what it costs. So an
# element of `specs` holds less than `spec` does.
MAX_ELEMENTS = 150
MAX_SPECS = 20
MAX_ELEMENTS_IN_SPECS = 10

PortRules = Annotated[Sequence[PortRule], Field(max_length=MAX_PORT_RULES)]
PortDenyRules = Annotated[Sequence[PortDenyRule], Field(max_length=MAX_PORT_RULES)]

_PORTS_OR_ICMPS = "!has(self.toPorts) || self.toPorts.size() == 0 || !has(self.icmps) || self.icmps.size() == 0"
_PORTS_OR_ICMPS_TEXT = "toPorts and icmps exclude each other in one element"
_PORTS_OR_SERVICES = "!has(self.toServices) || self.toServices.size() == 0 || !has(self.toPorts) || self.toPorts.size() == 0"
_PORTS_OR_SERVICES_TEXT = "toServices does not take toPorts"


class IngressRule(IngressPeers):
    to_ports: PortRules | None = None
    authentication: Authentication | None = None

    @refused_unless(_PORTS_OR_ICMPS, _PORTS_OR_ICMPS_TEXT)
    def ports_or_icmps(self) -> bool:
        return not self.to_ports or not self.icmps

    @refused_unless(
        "!has(self.toPorts) || self.toPorts.all(p, !has(p.rules) || !has(p.rules.dns) || p.rules.dns.size() == 0)",
        "DNS rules are for egress",
        "toPorts",
    )
    def no_dns(self) -> bool:
        return all(rule.l7() != "dns" for rule in self.to_ports or ())

    @refused_unless("!has(self.toPorts) || self.toPorts.all(p, !has(p.listener))", "listener is for egress", "toPorts")
    def no_listener(self) -> bool:
        return all(rule.listener is None for rule in self.to_ports or ())


class IngressDenyRule(IngressPeers):
    to_ports: PortDenyRules | None = None

    @refused_unless(_PORTS_OR_ICMPS, _PORTS_OR_ICMPS_TEXT)
    def ports_or_icmps(self) -> bool:
        return not self.to_ports or not self.icmps


class EgressRule(EgressPeers):
    to_ports: PortRules | None = None
    authentication: Authentication | None = None

    @refused_unless(_PORTS_OR_ICMPS, _PORTS_OR_ICMPS_TEXT)
    def ports_or_icmps(self) -> bool:
        return not self.to_ports or not self.icmps

    @refused_unless(_PORTS_OR_SERVICES, _PORTS_OR_SERVICES_TEXT)
    def ports_or_services(self) -> bool:
        return not self.to_ports or not self.to_services


class EgressDenyRule(EgressDenyPeers):
    to_ports: PortDenyRules | None = None

    @refused_unless(_PORTS_OR_ICMPS, _PORTS_OR_ICMPS_TEXT)
    def ports_or_icmps(self) -> bool:
        return not self.to_ports or not self.icmps

    @refused_unless(_PORTS_OR_SERVICES, _PORTS_OR_SERVICES_TEXT)
    def ports_or_services(self) -> bool:
        return not self.to_ports or not self.to_services


class DefaultDeny(Model):
    ingress: bool | None = None
    egress: bool | None = None


class RuleLabel(Model):
    key: Annotated[str, Field(min_length=1, max_length=512)]
    value: Annotated[str, Field(max_length=512)] | None = None
    source: Annotated[str, Field(max_length=63)] | None = None


_L7_BUT_DNS = (
    "has(p.rules.http) && p.rules.http.size() > 0 || has(p.rules.kafka) && p.rules.kafka.size() > 0"
    " || has(p.rules.l7proto) && p.rules.l7proto != ''"
)


class RuleSpec(Model):
    """One rule: whom it governs, and what it allows and denies."""

    endpoint_selector: LabelSelector | None = None
    node_selector: LabelSelector | None = None
    ingress: Annotated[Sequence[IngressRule], Field(max_length=MAX_ELEMENTS)] | None = None
    ingress_deny: Annotated[Sequence[IngressDenyRule], Field(max_length=MAX_ELEMENTS)] | None = None
    egress: Annotated[Sequence[EgressRule], Field(max_length=MAX_ELEMENTS)] | None = None
    egress_deny: Annotated[Sequence[EgressDenyRule], Field(max_length=MAX_ELEMENTS)] | None = None
    enable_default_deny: DefaultDeny | None = None
    labels: Annotated[Sequence[RuleLabel], Field(max_length=200)] | None = None
    description: Annotated[str, Field(max_length=10000)] | None = None

    @refused_unless("has(self.endpointSelector) != has(self.nodeSelector)", "give exactly one of endpointSelector and nodeSelector")
    def one_selector(self) -> bool:
        return (self.endpoint_selector is None) != (self.node_selector is None)

    @refused_unless(
        "!has(self.nodeSelector) || !has(self.ingress) || self.ingress.all(e, !has(e.toPorts) || e.toPorts.all(p,"
        f" !has(p.rules) || !({_L7_BUT_DNS})))",
        "a rule with nodeSelector takes no layer 7 rules on ingress",
        "ingress",
    )
    def host_ingress(self) -> bool:
        return self.node_selector is None or not any(rule.l7() for element in self.ingress or () for rule in element.to_ports or ())

    @refused_unless(
        "!has(self.nodeSelector) || !has(self.egress) || self.egress.all(e, !has(e.toPorts) || e.toPorts.all(p,"
        f" !has(p.rules) || !({_L7_BUT_DNS})))",
        "a rule with nodeSelector takes no layer 7 rules on egress but DNS",
        "egress",
    )
    def host_egress(self) -> bool:
        return self.node_selector is None or not any(
            rule.l7() not in ("", "dns") for element in self.egress or () for rule in element.to_ports or ()
        )


# As parse_label reads them.
_INIT_KEYS = ("reserved:init", "reserved.init", "$init")


class NamespacedSpec(RuleSpec):
    """Of a CiliumNetworkPolicy: it governs pods of its namespace."""

    @refused_unless("!has(self.nodeSelector)", "nodeSelector is for CiliumClusterwideNetworkPolicy", "nodeSelector")
    def no_nodes(self) -> bool:
        return self.node_selector is None

    @refused_unless(
        "!has(self.endpointSelector) || (!has(self.endpointSelector.matchLabels)"
        f" || {list(_INIT_KEYS)}.all(k, !(k in self.endpointSelector.matchLabels)))"
        " && (!has(self.endpointSelector.matchExpressions)"
        f" || self.endpointSelector.matchExpressions.all(e, !(e.key in {list(_INIT_KEYS)})))",
        f"an endpointSelector with {_INIT_KEYS[0]} is for CiliumClusterwideNetworkPolicy",
        "endpointSelector",
    )
    def no_init(self) -> bool:
        held = self.endpoint_selector or LabelSelector()
        keys = {*held.match_labels, *(requirement.key for requirement in held.match_expressions)}
        return keys.isdisjoint(_INIT_KEYS)


class ClusterwideSpec(RuleSpec):
    """Of a CiliumClusterwideNetworkPolicy."""

    @refused_unless(
        "!has(self.egress) || self.egress.all(e, !has(e.toPorts) || e.toPorts.all(p, !has(p.listener)"
        " || !has(p.listener.envoyConfig.kind) || p.listener.envoyConfig.kind != 'CiliumEnvoyConfig'))",
        "a CiliumClusterwideNetworkPolicy cannot name a listener of the namespaced kind CiliumEnvoyConfig",
        "egress",
    )
    def no_namespaced_listener(self) -> bool:
        return not any(
            rule.listener is not None and rule.listener.envoy_config.kind == "CiliumEnvoyConfig"
            for element in self.egress or ()
            for rule in element.to_ports or ()
        )


class RuleInSpecs(RuleSpec):
    """Its limits go before those of the other classes that an entry of `specs` is of."""

    ingress: Annotated[Sequence[IngressRule], Field(max_length=MAX_ELEMENTS_IN_SPECS)] | None = None
    ingress_deny: Annotated[Sequence[IngressDenyRule], Field(max_length=MAX_ELEMENTS_IN_SPECS)] | None = None
    egress: Annotated[Sequence[EgressRule], Field(max_length=MAX_ELEMENTS_IN_SPECS)] | None = None
    egress_deny: Annotated[Sequence[EgressDenyRule], Field(max_length=MAX_ELEMENTS_IN_SPECS)] | None = None


class NamespacedInSpecs(RuleInSpecs, NamespacedSpec):
    pass


class ClusterwideInSpecs(RuleInSpecs, ClusterwideSpec):
    pass


class Condition(Open):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class DerivativePolicy(Open):
    ok: bool | None = None
    error: str | None = None
    last_updated: str | None = None
    local_policy_revision: int | None = None
    enforcing: bool | None = None
    annotations: dict[str, str] | None = None


class PolicyStatus(Open):
    """`enforced`: on how many of the nodes that it concerns the policy is realised, as `x/y`. `selected`: pods it governs.

    `mode`: enforce, or audit, as the nodes have it.
    """

    conditions: Annotated[
        Sequence[Condition],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] | None = None  # fmt: skip
    derivative_policies: dict[str, DerivativePolicy] | None = None
    enforced: str | None = None
    selected: int | None = None
    mode: str | None = None


class PolicyObject(Resource):
    """What both kinds have in common."""

    schema_extra: ClassVar[dict[str, Any]] = {}

    spec: RuleSpec | None = None
    specs: Sequence[RuleInSpecs] | None = None
    status: PolicyStatus | None = None

    def given(self) -> dict[str, RuleSpec]:
        """Every rule by its path."""
        found = {} if self.spec is None else {"spec": self.spec}
        return found | {f"specs[{index}]": spec for index, spec in enumerate(self.specs or ())}

    @refused_unless("has(self.spec) || has(self.specs) && self.specs.size() > 0", "give spec or specs")
    def something(self) -> bool:
        return bool(self.given())


class CiliumNetworkPolicy(PolicyObject):
    spec: NamespacedSpec | None = None
    specs: Annotated[Sequence[NamespacedInSpecs], Field(max_length=MAX_SPECS)] | None = None


class CiliumClusterwideNetworkPolicy(PolicyObject):
    spec: ClusterwideSpec | None = None
    specs: Annotated[Sequence[ClusterwideInSpecs], Field(max_length=MAX_SPECS)] | None = None


_COLUMNS = (
    AGE,
    Column("Valid", "string", '.status.conditions[?(@.type=="Valid")].status'),
    Column("Selected", "integer", ".status.selected"),
    Column("Enforced", "string", ".status.enforced"),
    Column("Mode", "string", ".status.mode"),
)

CILIUM_NETWORK_POLICY = Kind(
    model=CiliumNetworkPolicy, group=CILIUM_GROUP, version="v2", name="CiliumNetworkPolicy", plural="ciliumnetworkpolicies",
    short_names=("cnp", "ciliumnp"), namespaced=True, status=True, columns=_COLUMNS, categories=("cilium", "ciliumpolicy"),
)  # fmt: skip
CILIUM_CLUSTERWIDE_NETWORK_POLICY = Kind(
    model=CiliumClusterwideNetworkPolicy, group=CILIUM_GROUP, version="v2", name="CiliumClusterwideNetworkPolicy",
    plural="ciliumclusterwidenetworkpolicies", short_names=("ccnp",), status=True, columns=_COLUMNS,
    categories=("cilium", "ciliumpolicy"),
)  # fmt: skip
