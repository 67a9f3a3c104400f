"""Objects that a tenant may write, and that every agent or the operator reads."""

import json
from typing import Any

import pytest
from e2e.scenarios.hostile.world import World, manifest

from pilus_lab import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

LEVELS = 3000  # an interpreter's JSON decoder gives up at a thousand, the API server at ten thousand
POLICY = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}
OBJECTS: dict[str, dict[str, Any]] = {
    "service": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}], "selector": {"app": "nobody"}}},
    "endpointslice": {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [],
    },
    "networkpolicy": {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "spec": {"podSelector": {"matchLabels": {"app": "nobody"}}},
    },
    "ciliumnetworkpolicy": {**POLICY, "spec": {"endpointSelector": {"matchLabels": {"app": "nobody"}}}},
    "pod": manifest("deep", "n1", {"app": "deep"}),
}


def nested(held: dict[str, Any]) -> str:
    """The object, with managedFields that are nested. Put together as text: no encoder here would write it."""
    inner = '{"f:metadata":{"f:labels":' + '{"f:a":' * LEVELS + "{}" + "}" * LEVELS + "}}"
    fields = {"manager": "m", "operation": "Update", "apiVersion": held["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": "HERE"}
    metadata = {"namespace": "default", **held.get("metadata", {}), "name": "deep", "managedFields": [fields]}
    return json.dumps({**held, "metadata": metadata}).replace('"HERE"', inner)


def test_cve_2023_41332_objects_nested_without_end(world: World) -> None:
    """Each ended an agent, every agent of the cluster, or the operator's view of policies. What comes after them is still read."""
    lab = world.lab
    for held in OBJECTS.values():
        lab.kubectl("create", "--validate=false", "--filename=-", stdin=nested(held))
    kept = lab.kubectl("get", "--raw", "/api/v1/namespaces/default/services/deep").stdout
    assert kept.count('"f:a"') == LEVELS, "the API server has cut it: nothing is proved"
    lab.apply(
        json.dumps(
            {
                **POLICY,
                "metadata": {"name": "after", "namespace": "default"},
                "spec": {"endpointSelector": {"matchLabels": {"app": "deep"}}},
            }
        )
    )

    def enforced() -> bool:
        status = lab.get("ciliumnetworkpolicies", "after")[0].get("status") or {}
        return bool(status.get("enforced") == "2/2")

    try:
        wait_for("the policy that comes after, on both nodes", enforced, 30)
        lab.kubectl("wait", "--for=condition=Ready", "pod/deep", "--timeout=60s")
        for node in ("n1", "n2"):
            assert lab.node(node).components()["agent"]["status"] is None
        assert lab.control.components()["operator"]["status"] is None
    finally:
        for kind in OBJECTS:
            lab.kubectl("delete", kind, "deep", "--wait=true")
        lab.kubectl("delete", "ciliumnetworkpolicies", "after", "--wait=true")
