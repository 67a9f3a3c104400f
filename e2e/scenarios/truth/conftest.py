"""One lab for all tables. How long each change took stands in build/convergence.json afterwards."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from e2e.scenarios.truth import convergence
from e2e.scenarios.truth.ask import SPACES
from e2e.scenarios.truth.table import Table
from e2e.scenarios.truth.world import NODES, OUTSIDERS, PODS, World, manifest

from pilus_lab import Lab, wait_for
from pilus_lab.api import Api
from pilus_lab.components import REPOSITORY
from pilus_lab.probe import process_of

ADMIN_KINDS = REPOSITORY / "crds" / "network-policy-api"
CONVERGENCE = REPOSITORY / "build" / "convergence.json"


def _by_family(addresses: Iterator[str]) -> dict[int, str]:
    return {6 if ":" in address else 4: address for address in addresses}


def _outside(lab: Lab) -> None:
    """Addresses beside the nodes."""
    for address in (address for held in OUTSIDERS.values() for address in held.values()):
        lab.control.exec(["ip", "address", "add", address, "dev", "lo"])


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    with Lab("truth", nodes=2, cni="pilus", without=("observer",)) as lab, ExitStack() as held:
        lab.kubectl("apply", "--server-side", f"--kustomize={ADMIN_KINDS}")
        lab.apply("\n---\n".join(  # JSON: to kubectl's YAML "y" is a truth
            json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": {"ns": space}}})
            for space in SPACES
        ))  # fmt: skip
        for space in SPACES:
            asked = partial(lab.get, "serviceaccount", "default", f"--namespace={space}", check=False)
            wait_for("its service account", asked, 30)
        lab.apply("\n---\n".join(json.dumps(manifest(pod)) for pod in PODS))
        for space in SPACES:
            lab.kubectl("wait", f"--namespace={space}", "--for=condition=Ready", "pod", "--all", "--timeout=80s")
        _outside(lab)
        addresses, processes, ready = dict(OUTSIDERS), {}, {}
        for one in (one for space in SPACES for one in lab.get("pods", f"--namespace={space}")):
            pod = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            processes[pod] = process_of(one["metadata"]["uid"])
            addresses[pod] = _by_family(ip["ip"] for ip in one["status"]["podIPs"])
            ready[pod] = next(held["lastTransitionTime"] for held in one["status"]["conditions"] if held["type"] == "Ready")
        for name, node in NODES.items():
            own = next(one for one in lab.spec.nodes if one.name == node)
            addresses[name] = {4: str(own.ipv4), 6: str(own.ipv6)}
        for name in (*NODES, *OUTSIDERS):
            place = lab.node(NODES[name]) if name in NODES else lab.control
            processes[name] = place.orders.first_process()
        table = held.enter_context(contextlib.closing(Table(processes, addresses, servers=(*NODES, *OUTSIDERS))))
        made = World(lab, held.enter_context(Api(lab)), table, ready)
        held.callback(convergence.write, CONVERGENCE, made.changes)
        made.opened()
        yield made
        print(made.summary())


@pytest.fixture(autouse=True)
def _case(world: World, request: pytest.FixtureRequest) -> None:
    world.case = request.node.name
