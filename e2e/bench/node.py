"""All that an agent decides in a pass, at scale: its facts, without watches and without a kernel.

In: as many policies, identities and endpoints as the compiler is given alone (bench.policies). Out: a node whose facts can change
one by one, and a pass, which ends where rows would be written (whose flows decide anew is found out there). Not in it: what the
API and the observer are told is made, not written.
"""

import random
from ipaddress import ip_address, ip_network
from typing import Any

from bench.compiler import APPS, NAMESPACES, SETS
from bench.kernel import ROOT
from pilus_agent.attachments import key_of
from pilus_agent.datapath.loader import describe
from pilus_agent.datapath.node import NodeLinks
from pilus_agent.decisions import Decisions
from pilus_agent.desired.identities import labels_of
from pilus_agent.facts import AllocatedIdentity, Attachment, Namespace, Node, Pod
from pilus_agent.sources.kubernetes import policy_of
from pilus_agent.tables import Tables
from pilus_api.identities import Identity
from pilus_api.label_filters import IdentityFilter
from pilus_api.settings import Settings

NAME = "n1"
LINKS = NodeLinks(uplink_ifindex=2, uplink_mtu=1500, router_ifindex=3, tunnel_ifindex=4, pod_mtu=1450)
OWN = Node(NAME, (ip_address("192.0.2.1"),), (), (ip_network("10.0.0.0/22"),))


def namespace(number: int) -> str:
    return f"ns-{number % NAMESPACES}"


def pod(number: int) -> Pod:
    labels = {"app": f"app-{number // NAMESPACES % APPS}", "tier": ("web", "api", "data")[number % 3], "version": f"v{number % 5}"}
    return Pod(namespace(number), f"pod-{number}", f"uid-{number}", tuple(sorted(labels.items())))


def policy(number: int, chance: random.Random) -> dict[str, Any]:
    """One application of a namespace, by an application of another; some deny, some are about all of a namespace's pods."""
    peer = {"k8s:io.kubernetes.pod.namespace": namespace(chance.randrange(NAMESPACES)), "app": f"app-{chance.randrange(APPS)}"}
    port = {"port": str(chance.randrange(1, 60000)), "protocol": "TCP"}
    section = "ingressDeny" if number % 20 == 0 else "ingress"
    subject = {} if number % 10 == 0 else {"matchLabels": {"app": f"app-{chance.randrange(APPS)}"}}
    metadata = {"name": f"p{number}", "namespace": namespace(number), "uid": f"policy-{number}", "generation": 1}
    rule = {"fromEndpoints": [{"matchLabels": peer}], "toPorts": [{"ports": [port]}]}
    return {"metadata": metadata, "spec": {"endpointSelector": subject, section: [rule]}}


class BusyNode:
    """Everything has been told; nothing is decided yet."""

    def __init__(self, policies: int, identities: int, endpoints: int) -> None:
        chance = random.Random(3)  # noqa: S311
        self._policies = [policy(number, chance) for number in range(policies)]
        self.desired = Decisions(NAME, Settings(), Tables.of(describe(ROOT / "bpf", ROOT, {})[1]["maps"]), claimed=False)
        self.desired.put("nodes", NAME, OWN)
        self.desired.put("nodelabels", NAME, (("kubernetes.io/hostname", NAME),))
        for number in range(NAMESPACES):
            self.desired.put("namespaces", namespace(number), Namespace((("kubernetes.io/metadata.name", namespace(number)),)))
        for number in range(identities):
            self.identity(number)
        for number in range(endpoints):
            self._endpoint(number)
        for number in range(policies):
            self.policy(number)

    def identity(self, number: int) -> None:
        """Of the pods like that one; where all of these have theirs, of one like no other."""
        one = pod(number)
        if number >= SETS:
            one = Pod(one.namespace, one.name, one.uid, (*one.labels, ("unique", str(number))))
        labels = labels_of(one, self.desired.facts.namespaces, IdentityFilter(), "default")
        if labels is not None:
            self.desired.put("identities", str(256 + number), AllocatedIdentity(Identity(256 + number), labels))

    def _endpoint(self, number: int) -> None:
        one, address = pod(number * 14), ip_address("10.0.0.10") + number
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        made = Attachment(f"c-{number}", "eth0", one.namespace, one.name, one.uid, "", f"plx{number}", 100 + number, mac, mac,
                          (address,), number + 1)  # fmt: skip
        self.desired.put("pods", f"{one.namespace}/{one.name}", one)
        self.desired.put("attachments", key_of(made), made)

    def policy(self, number: int, there: bool = True) -> None:
        raw = self._policies[number]
        key = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        self.desired.put("cnp", key, policy_of(raw) if there else None)

    def decide(self) -> None:
        """A pass; what it would write counts as written."""
        self.desired.decide_nodes()
        self.desired.decide_endpoints()
        self.desired.decide_addresses()
        self.desired.decide_settings(LINKS)
        self.desired.services.settle(self.desired.tables)
        for tracker in self.desired.tables.trackers.values():
            tracker.wrote(dict(tracker.updates))
            tracker.removed(list(tracker.deletes))

    def tell(self) -> None:
        """What a pass is followed by: each policy's state for the API, and the rules' texts for the observer."""
        self.desired.policy.acknowledgements("")
        self.desired.policy.rules()
