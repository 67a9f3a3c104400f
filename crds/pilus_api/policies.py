"""Objects -> policies: those of cilium.io, the Kubernetes NetworkPolicy, and cluster administrators' in one form.

In: raw JSON objects. Out: pilus_api.rules. Never: which pods there are, and what the kernel holds.

`drafts_of` gives them as they are written, `resolve` the addresses of the groups that they speak of, and `together` what those mean
that govern one endpoint; `policies_of` is all three for an object alone. A field that is not in force yet never widens what is
allowed: its path stands in `unenforced`, an allowing rule with it grants nothing, and a denying one denies all that it could mean.
What would restrict traffic further, as layer 7 does, closes it, for what others allow would be restricted by it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pilus_api.errors import InvalidError
from pilus_api.policy_admin import AdminObject, admin_policy
from pilus_api.policy_groups import groups_of, resolve
from pilus_api.policy_kinds import BY_NAME
from pilus_api.policy_kubernetes import network_policy
from pilus_api.policy_peers import Place, element_peers
from pilus_api.policy_ports import icmp_types, only_layer_7, ports, unenforced_fields
from pilus_api.policy_salvage import salvaged
from pilus_api.policy_selectors import NOBODY, anybody, governs_init, host_subject, subject
from pilus_api.policy_together import together
from pilus_api.resources.adminnetworkpolicy import AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy
from pilus_api.resources.ciliumnetworkpolicy import (
    CiliumClusterwideNetworkPolicy,
    CiliumNetworkPolicy,
    EgressDenyRule,
    EgressRule,
    IngressDenyRule,
    IngressRule,
    PolicyObject,
    RuleSpec,
)  # fmt: skip
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.model import Resource, parse
from pilus_api.resources.networkpolicy import NetworkPolicy
from pilus_api.rules import Closing, Demand, Direction, Origin, Policy, Ports, Rule

__all__ = ["drafts_left", "drafts_of", "groups_of", "is_policy", "policies_of", "prepare", "resolve", "together"]

Element = IngressRule | IngressDenyRule | EgressRule | EgressDenyRule

_MODELS: Mapping[str, type[Resource]] = {
    "CiliumNetworkPolicy": CiliumNetworkPolicy,
    "CiliumClusterwideNetworkPolicy": CiliumClusterwideNetworkPolicy,
    "NetworkPolicy": NetworkPolicy,
    "AdminNetworkPolicy": AdminNetworkPolicy,
    "BaselineAdminNetworkPolicy": BaselineAdminNetworkPolicy,
    "ClusterNetworkPolicy": ClusterNetworkPolicy,
}


def is_policy(obj: Mapping[str, Any]) -> bool:
    """Whether the object is of a kind that `drafts_of` takes."""
    kind = BY_NAME.get(str(obj.get("kind", "")))
    return kind is not None and obj.get("apiVersion") == kind.version


def prepare() -> None:
    """Build what is not built yet of the models (some 100 ms): the first policy that comes has not to wait for it then."""
    for model in _MODELS.values():
        model.model_rebuild()


def _element_rules(element: Element, origin: Origin, direction: Direction, place: Place) -> tuple[list[Rule], list[Demand]]:
    """The rules of an element, and what it demands of other rules.

    Ports and peers that are not in force stand in rules of their own, so that they take nothing from the rest.
    """
    found = element_peers(element, place)
    plain = [rule for rule in element.to_ports or () if not unenforced_fields(rule, "")]
    restricted = {
        index: fields
        for index, rule in enumerate(element.to_ports or ())
        if (fields := unenforced_fields(rule, f"{place.path}.toPorts[{index}]"))
    }
    always: tuple[str, ...] = ()
    if isinstance(element, IngressRule | EgressRule) and element.authentication and element.authentication.mode != "disabled":
        always = (f"{place.path}.authentication",)

    wanted: tuple[Ports, ...] | None = None
    if element.to_ports:
        wanted = ports(plain)
    elif element.icmps:
        wanted = icmp_types(element.icmps)
    peers = found.peers
    if peers is None and wanted is None:
        peers = ()  # `{}` names nobody; beside ports it would be anybody
    if not found.endpoints:
        peers = anybody(peers)

    rules = []
    whole = Rule(origin, direction, place.deny, peers, wanted, always, endpoints=found.endpoints)
    if not restricted or plain:
        rules.append(replace(whole, closing=Closing.ALWAYS if always else Closing.NOTHING))
    for index, fields in restricted.items():
        (entry,) = behind = (element.to_ports or ())[index : index + 1]
        closing = Closing.UNLESS_PLAIN if only_layer_7(entry) and not always else Closing.ALWAYS
        rules.append(replace(whole, ports=ports(behind), unenforced=always + fields, closing=closing))
    if found.unenforced:  # then no peer is in force, for an element has one sort of them
        rules = [
            replace(rule, unenforced=rule.unenforced + found.unenforced, peers=found.possible if rule.denies else rule.peers)
            for rule in rules
        ]
    return rules, [Demand(direction, place.deny, each) for each in found.requires]


def _draft(spec: RuleSpec, origin: Origin, cluster: str, nodes: bool, hosts: bool) -> Policy:
    """One `spec`. `origin.path` is its path."""
    if spec.endpoint_selector is not None:
        governed = subject(spec.endpoint_selector, origin.namespace, f"{origin.path}.endpointSelector")
    else:
        governed = host_subject(spec.node_selector or LabelSelector(), f"{origin.path}.nodeSelector")
        if not hosts:
            return Policy(origin, NOBODY, (False, False), (), (f"{origin.path}.nodeSelector",))
    sections: Sequence[tuple[str, Direction, bool, Sequence[Element]]] = (
        ("ingress", Direction.INGRESS, False, spec.ingress or ()),
        ("ingressDeny", Direction.INGRESS, True, spec.ingress_deny or ()),
        ("egress", Direction.EGRESS, False, spec.egress or ()),
        ("egressDeny", Direction.EGRESS, True, spec.egress_deny or ()),
    )
    rules: list[Rule] = []
    demands: list[Demand] = []
    closed = [False, False]
    for name, direction, deny, elements in sections:
        closed[direction] = closed[direction] or bool(elements)
        for index, element in enumerate(elements):
            path = f"{origin.path}.{name}[{index}]"
            place = Place(origin.namespace, cluster, path, deny, governs_init(governed), nodes)
            found, demanded = _element_rules(element, replace(origin, path=path), direction, place)
            rules += found
            demands += demanded
    asked = spec.enable_default_deny
    if asked is not None:
        closed[Direction.INGRESS] = closed[Direction.INGRESS] if asked.ingress is None else asked.ingress
        closed[Direction.EGRESS] = closed[Direction.EGRESS] if asked.egress is None else asked.egress
    host = spec.endpoint_selector is None
    closes = closed[Direction.INGRESS], closed[Direction.EGRESS]
    return Policy(origin, governed, closes, tuple(rules), host=host, demands=tuple(dict.fromkeys(demands)))


def drafts_of(obj: Mapping[str, Any], *, cluster: str, nodes: bool = False, hosts: bool = True) -> tuple[Policy, ...]:
    """What the object says, one policy for each of its specs. `cluster` is the name of this one; `nodes`: nodes have identities by
    their labels (the setting enable-node-selector-labels), without which peers that are nodes are not in force; `hosts`: policies
    about nodes are in force (enable-host-firewall).

    Raises InvalidError with the path of the field that is wrong.
    """
    if not is_policy(obj):
        raise InvalidError(f"{obj.get('apiVersion')} {obj.get('kind')} is not a policy", "kind")
    kind = str(obj["kind"])
    held = parse(_MODELS[kind], obj)
    namespace = (held.metadata.namespace or "default") if BY_NAME[kind].namespaced else ""
    origin = Origin(kind, namespace, held.metadata.name, held.metadata.uid)
    if isinstance(held, AdminObject):
        return (admin_policy(held, origin, nodes),)
    if isinstance(held, NetworkPolicy):
        return (network_policy(held, origin),)
    if not isinstance(held, PolicyObject):
        raise InvalidError(f"{kind} is not a policy", "kind")
    return tuple(_draft(spec, replace(origin, path=path), cluster, nodes, hosts) for path, spec in held.given().items())


def drafts_left(obj: Mapping[str, Any], *, cluster: str, nodes: bool, hosts: bool) -> tuple[tuple[Policy, ...], str]:
    """The same of an object that may make no sense: what of it does, closed where it doesn't; and what is wrong, "" for nothing."""

    def read(candidate: Mapping[str, Any]) -> tuple[Policy, ...]:
        return drafts_of(candidate, cluster=cluster, nodes=nodes, hosts=hosts)

    try:
        return read(obj), ""
    except InvalidError as error:
        left = salvaged(obj, read)
        if left is None:
            return (), f"{error}: the policy governs nobody"
        return read(left), f"{error}: the policy is in force as far as it can be read, and closed where it can't"


def policies_of(obj: Mapping[str, Any], *, cluster: str, nodes: bool = False) -> tuple[Policy, ...]:
    """What the object means where it is the only one, and all its specs govern the same. Raises InvalidError."""
    return together(resolve(drafts_of(obj, cluster=cluster, nodes=nodes)))
