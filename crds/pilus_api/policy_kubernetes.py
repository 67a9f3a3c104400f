"""The Kubernetes NetworkPolicy -> policies.

In: the model. Out: rules. It means what the Kubernetes API says: an ipBlock may be a pod, an empty `from` is anybody, and a
section whose type policyTypes does not list is ignored.
"""

from collections.abc import Sequence

from pilus_api.addresses import parse_prefix
from pilus_api.labels import NAMESPACE_LABELS_KEY, SOURCE_KUBERNETES
from pilus_api.policy_ports import LAST_PORT, PROTOCOLS
from pilus_api.policy_selectors import IN_SOME_NAMESPACE, in_namespace, requirements
from pilus_api.resources.networkpolicy import NetworkPolicy
from pilus_api.resources.networkpolicy import Peer as PeerModel
from pilus_api.resources.networkpolicy import Port as PortModel
from pilus_api.rules import AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope
from pilus_api.selectors import EVERYTHING, Selector, selector


def _peer(held: PeerModel, namespace: str, path: str) -> Peer:
    if held.ip_block is not None:
        excepted = tuple(parse_prefix(text) for text in held.ip_block.except_)
        return AddressPeer(parse_prefix(held.ip_block.cidr), excepted, Scope.ANY)
    wanted = () if held.pod_selector is None else requirements(held.pod_selector, path, SOURCE_KUBERNETES)
    if held.namespace_selector is None:
        return selector(*wanted, in_namespace(namespace))
    # NotIn and DoesNotExist hold of what has no labels at all; only pods are in a namespace.
    among = requirements(held.namespace_selector, path, SOURCE_KUBERNETES, f"{NAMESPACE_LABELS_KEY}.")
    return selector(*wanted, *among, IN_SOME_NAMESPACE)


def _ports(held: PortModel) -> Ports:
    (protocol,) = PROTOCOLS[held.protocol]
    if held.port is None:
        return Ports(protocol, 0, LAST_PORT)
    if isinstance(held.port, str):
        return Ports(protocol, 0, 0, held.port)
    return Ports(protocol, held.port, held.end_port or held.port)


def _rule(origin: Origin, direction: Direction, peers: Sequence[PeerModel], ports: Sequence[PortModel]) -> Rule:
    field = "from" if direction is Direction.INGRESS else "to"
    found = tuple(_peer(peer, origin.namespace, f"{origin.path}.{field}[{i}]") for i, peer in enumerate(peers))
    # An empty list is an absent one here.
    return Rule(
        origin=origin,
        direction=direction,
        deny=False,
        peers=found or None,
        ports=tuple(sorted({_ports(port) for port in ports})) or None,
        endpoints=tuple(peer for peer in found if isinstance(peer, Selector)) if found else (EVERYTHING,),
    )


def network_policy(held: NetworkPolicy, origin: Origin) -> Policy:
    """The one policy that the object is. `origin.path` is empty."""
    spec = held.spec
    types = spec.policy_types or (("Ingress", "Egress") if spec.egress else ("Ingress",))
    rules = []
    if "Ingress" in types:
        for index, ingress in enumerate(spec.ingress):
            where = Origin(origin.kind, origin.namespace, origin.name, origin.uid, f"spec.ingress[{index}]")
            rules.append(_rule(where, Direction.INGRESS, ingress.from_, ingress.ports))
    if "Egress" in types:
        for index, egress in enumerate(spec.egress):
            where = Origin(origin.kind, origin.namespace, origin.name, origin.uid, f"spec.egress[{index}]")
            rules.append(_rule(where, Direction.EGRESS, egress.to, egress.ports))
    governed = requirements(spec.pod_selector, "spec.podSelector", SOURCE_KUBERNETES)
    return Policy(
        origin=Origin(origin.kind, origin.namespace, origin.name, origin.uid, "spec"),
        subject=selector(*governed, in_namespace(origin.namespace)),
        default_deny=("Ingress" in types, "Egress" in types),
        rules=tuple(rules),
    )
