"""The path table of docs/architecture.md: from whom to whom, and who the receiver sees; both routing modes, v4 and v6."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilus_lab import Lab, wait_for
from pilus_lab.probe import namespace_of_process, network_namespace, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MODES: dict[str, dict[str, str]] = {"tunnel": {}, "native": {"routing-mode": "native", "auto-direct-node-routes": "true"}}
PODS = {"here": "n1", "beside": "n1", "there": "n2"}
MANIFEST = "".join(
    f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: "lab.local/agnhost:1", imagePullPolicy: Never, args: [pause]}}]
"""
    for name, node in PODS.items()
)
PORT = 9009


class World:
    """Everybody who can speak: pods, nodes, and the outside (the underlay's own namespace)."""

    def __init__(self, lab: Lab, mode: str, stack: ExitStack) -> None:
        self.lab, self.mode = lab, mode
        self.namespaces: dict[str, int] = {}
        self.addresses: dict[str, dict[int, str]] = {}
        for name in PODS:
            raw = lab.get("pod", name)[0]
            self.namespaces[name] = network_namespace(raw["metadata"]["uid"])
            self.addresses[name] = by_family([held["ip"] for held in raw["status"]["podIPs"]])
        for node in ("n1", "n2"):
            self.namespaces[node] = namespace_of_process(lab.node(node).orders.first_process())
            held = lab.get("ciliumnode", node)[0]["spec"]["addresses"]
            self.addresses[node] = by_family([one["ip"] for one in held if one["type"] == "InternalIP"])
            self.addresses[f"router of {node}"] = by_family([one["ip"] for one in held if one["type"] == "CiliumInternalIP"])
        self.namespaces["outside"] = namespace_of_process(lab.control.orders.first_process())
        self.addresses["outside"] = {4: "172.30.0.1", 6: "fd00:30::1"}
        for fd in self.namespaces.values():
            stack.callback(os.close, fd)

    def name_of(self, address: str) -> str:
        return next((name for name, held in self.addresses.items() if address in held.values()), address)

    def seen(self, source: str, destination: str, family: int) -> str | None:
        """Who the receiver sees, by name; None if the connection did not come about."""
        receiver = destination.removeprefix("router of ")
        address = self.addresses[destination][family]
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with ExitStack() as stack:
            listening = stack.enter_context(
                within(self.namespaces[receiver], partial(socket.create_server, (address, PORT), family=kind))
            )
            listening.settimeout(2)
            try:
                stack.enter_context(within(self.namespaces[source], partial(socket.create_connection, (address, PORT), 1.5)))
                made, peer = listening.accept()
            except OSError:
                return None
            made.close()
            return self.name_of(peer[0])

    def identity(self, node: str, destination: str, family: int) -> set[int]:
        """Who the kernel of the receiver's node took the sender for."""
        pilus = str(Path(sys.executable).with_name("pilus"))
        done = self.lab.node(node).exec([pilus, "-o", "json", "monitor", "--no-follow", "--last", "1000"])
        events: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        return {
            event["source"]["identity"]
            for event in events
            if event["destination"]["address"] == self.addresses[destination][family] and event["destination"]["port"] == PORT
        }


def by_family(addresses: list[str]) -> dict[int, str]:
    return {6 if ":" in address else 4: address for address in addresses}


@pytest.fixture(scope="module", params=list(MODES))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("paths", nodes=2, cni="pilus", settings=MODES[request.param]))
        lab.apply(MANIFEST)
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")

        def complete() -> bool:
            nodes = lab.get("ciliumnodes")
            return all(sum(one["type"] == "CiliumInternalIP" for one in node["spec"]["addresses"]) == 2 for node in nodes)

        wait_for("every node to say its router addresses", complete, 30)
        yield World(lab, request.param, stack)


# from, to, who the receiver sees in tunnel mode and in native mode; None: refused
PATHS = [
    ("here", "beside", "here", "here"),
    ("here", "there", "here", "here"),
    ("there", "here", "there", "there"),
    ("here", "n1", "here", "here"),
    ("here", "router of n1", "here", "here"),
    ("here", "n2", "n1", "here"),
    ("here", "router of n2", "here", "here"),
    ("here", "outside", "n1", "n1"),
    ("n1", "here", "router of n1", "router of n1"),
    ("n1", "there", "router of n1", "n1"),
    ("n2", "here", "router of n2", "n2"),
    ("outside", "n1", "outside", "outside"),
    ("outside", "here", None, None),
]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("source", "destination", "tunnel", "native"), PATHS, ids=[f"{path[0]} to {path[1]}" for path in PATHS])
def test_who_the_receiver_sees(
    world: World, source: str, destination: str, tunnel: str | None, native: str | None, family: int
) -> None:
    expected = tunnel if world.mode == "tunnel" else native
    if expected is not None:
        wait_for("the connection", lambda: world.seen(source, destination, family) is not None, 15)
    assert world.seen(source, destination, family) == expected


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "destination", "node", "reserved"),
    [("beside", "here", "n1", 0), ("there", "here", "n1", 0), ("n1", "here", "n1", 1), ("n2", "here", "n1", 6)],
    ids=["pod", "pod of another node", "own node", "another node"],
)
def test_who_the_sender_is_taken_for(world: World, source: str, destination: str, node: str, reserved: int, family: int) -> None:
    expected = reserved
    if not reserved:
        expected = wait_for("its identity", lambda: world.lab.identity_of(source), 60)

    def told() -> bool:  # connected anew each time: other nodes learn a while after a pod's start who it is
        return world.seen(source, destination, family) is not None and expected in world.identity(node, destination, family)

    wait_for("an event with the identity", told, 60, 0.5)
