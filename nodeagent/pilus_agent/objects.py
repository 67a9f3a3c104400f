"""The objects that the agent writes: its node, its endpoints, its node's state. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pilus_agent.desired.endpoints import Endpoint
from pilus_agent.facts import Address, Network
from pilus_agent.status_limits import bounded
from pilus_api.labels import Labels
from pilus_api.policy_ports import PROTOCOLS

Object = dict[str, Any]

NODE_ANNOTATION = "pilus.io/node"
_PROTOCOL_NAMES = {numbers[0]: name for name, numbers in PROTOCOLS.items() if len(numbers) == 1}
ENDPOINTS_PATH = "/apis/cilium.io/v2/namespaces/"


def node_path(name: str) -> str:
    return f"/apis/cilium.io/v2/ciliumnodes/{name}"


def cilium_node(name: str, uid: str, addresses: Iterable[Address], routers: Iterable[Address]) -> Object:
    """Where this node is. Its ranges are the operator's to write."""
    held = [{"type": "InternalIP", "ip": str(address)} for address in addresses]
    held += [{"type": "CiliumInternalIP", "ip": str(address)} for address in routers]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"addresses": held},
    }


def routers_of(ranges: Iterable[Network]) -> tuple[Address, ...]:
    """The node's own address out of each of its ranges: the first usable one."""
    return tuple(network[1] for network in ranges)


def endpoint_path(namespace: str, name: str) -> str:
    return f"{ENDPOINTS_PATH}{namespace}/ciliumendpoints/{name}"


def cilium_endpoint(
    endpoint: Endpoint, labels: Labels, ports: Iterable[tuple[str, int, int]], node: Address | None, name: str
) -> Object:
    """`ports` are the pod's named ones (name, protocol, port), of which other nodes' policies speak. `node` and `name` are this
    node's. Its name stands in an annotation, by which admission knows whose the endpoint is."""
    attachment = endpoint.attachment
    pair = {f"ipv{address.version}": str(address) for address in attachment.addresses}
    networking: Object = {"addressing": [pair]}
    if node is not None:
        networking["node"] = str(node)
    status: Object = {
        "id": attachment.number,
        "state": str(endpoint.state),
        "external-identifiers": {
            "container-id": attachment.container,
            "k8s-namespace": attachment.namespace,
            "k8s-pod-name": attachment.pod,
            "pod-name": f"{attachment.namespace}/{attachment.pod}",
        },
        "networking": networking,
        "policy": {
            "ingress": {"enforcing": endpoint.ingress_enforced},
            "egress": {"enforcing": endpoint.egress_enforced},
        },
    }
    if named := [{"name": each, "port": port, "protocol": _PROTOCOL_NAMES[protocol]} for each, protocol, port in sorted(ports)]:
        status["named-ports"] = named
    if endpoint.identity is not None:
        status["identity"] = {"id": endpoint.identity, "labels": [str(label) for label in labels]}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": attachment.pod, "uid": attachment.uid}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {
            "name": attachment.pod,
            "namespace": attachment.namespace,
            "annotations": {NODE_ANNOTATION: name},
            "ownerReferences": [owner],
        },
        "status": status,
    }


def node_status(name: str, uid: str, version: str, ready: bool, policies: Iterable[Mapping[str, Any]]) -> Object:
    """Takes whatever policies there are: each is told of as far as the object has room."""
    return {
        "apiVersion": "pilus.io/v1alpha1",
        "kind": "PilusNodeStatus",
        "metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "status": {"agent": {"version": version, "ready": ready}, "policies": bounded(policies)},
    }
