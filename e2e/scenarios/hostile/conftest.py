"""One lab for all that a hostile pod tries."""

from collections.abc import Iterator

import pytest
import yaml
from e2e.scenarios.hostile.world import PODS, VICTIMS, World, by_family, calm, deaf, gateway_mac, manifest

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Capture, Prober, within


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    with Lab("hostile", nodes=2, cni="pilus") as lab, Prober(lab) as prober:
        wait_for("its service account", lambda: lab.get("serviceaccount", "default", check=False), 30)
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name, *given)) for name, given in PODS.items()))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=80s")
        addresses = {name: by_family(held["ip"] for held in lab.get("pod", name)[0]["status"]["podIPs"]) for name in PODS}
        for node in lab.get("ciliumnodes"):
            index = node["metadata"]["name"].removeprefix("n")
            for kind, name in (("InternalIP", f"node{index}"), ("CiliumInternalIP", f"router{index}")):
                addresses[name] = by_family(one["ip"] for one in node["spec"]["addresses"] if one["type"] == kind)
        made = World(lab, prober, addresses, {})
        for name in PODS:
            within(made.namespace(name), calm)
            made.captures[name] = Capture(made.namespace(name))
            made.gateway_macs[name] = gateway_mac(made, name)
        for name in VICTIMS:
            made.sockets += within(made.namespace(name), deaf)
        for victim in VICTIMS:
            wait_for(f"silence at {victim}", lambda name=victim: made.seen(name) == [], 30)
        yield made
        for held in (*made.captures.values(), *made.sockets):
            held.__exit__(None, None, None)
