"""The kernel's own answer: drawn worlds, compiled and written as the agent does it, and packets judged by the programs.

Of a world's first endpoint the web pod has the policy for what comes, and the client for what it sends; this node has that of the
world's host. What the rules mean says the evaluator of the property tests, which knows no tables. What is asked: whether the packet
may pass, and whether the rule that the kernel names is one that has decided.
"""

import random
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from tests.packets.harness.actors import CLIENT, FAR, HERE, OUTSIDE, THERE, WEB, packed
from tests.packets.harness.frames import echo, from_pod, ip, raw, tcp, tunnelled, udp
from tests.packets.harness.scenario import FromOutside, FromPod, FromTunnel, ToOutside
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import NODE as NODES_OWN
from tests.packets.harness.world import ROUTER_MAC
from tests.properties.conftest import WORLDS
from tests.properties.oracle import Probe, Truth, World, truth
from tests.properties.worlds import ADDRESSES, PORTS, worlds

from pilus_agent.bind.policy_rows import PolicyRows
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.tables import Compiled, PolicyName
from pilus_api.identities import WORLD, Identity
from pilus_api.rules import Direction

pytestmark = pytest.mark.kernel

PROBES = 40
NAME, HOST_NAME = "pod-0", "host"
TCP, UDP, SCTP = 6, 17, 132
ECHO = {4: (1, 8), 6: (58, 128)}
POD, NODE = 1, 2  # flags of ipcache rows
CIDR_NODES, HOST_FIREWALL = 16, 32  # of settings
Address = IPv4Address | IPv6Address
At = FromPod | FromTunnel | FromOutside | ToOutside
# What is behind the other node, so that an address in it is inside the cluster.
INSIDE = tuple(ip_network(text) for text in ("10.1.0.0/16", "10.200.0.0/16", "fd00:1::/32"))
_ADDRESS = {4: 4, 6: 16}
_SOURCE = {4: 14 + 12, 6: 14 + 8}
_L4 = {4: 14 + 20, 6: 14 + 40}


def _template(host: bool, direction: Direction, family: int, protocol: int) -> bytes:
    layers = echo(family) if protocol == ECHO[family][0] else udp(1, 2) if protocol == UDP else tcp(1, 2)
    if host:
        ends = (OUTSIDE[family], NODES_OWN[family])
        made = raw(Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(*(ends if direction is Direction.INGRESS else ends[::-1])) / layers)
    elif direction is Direction.INGRESS:
        made = raw(tunnelled(FAR.address(family), WEB.address(family), layers))
    else:
        made = raw(from_pod(CLIENT, OUTSIDE[family], layers))
    if protocol == SCTP:  # as it stands a SCTP header begins with its ports, too
        at = 14 + (9 if family == 4 else 6)
        made = made[:at] + bytes([SCTP]) + made[at + 1 :]
    return made


TEMPLATES = {
    (host, direction, family, protocol): _template(host, direction, family, protocol)
    for host in (False, True)
    for direction in Direction
    for family in (4, 6)
    for protocol in (TCP, UDP, SCTP, ECHO[family][0])
}


@dataclass(slots=True)
class Judge:
    """A world in the kernel, and packets that all are the first of a connection."""

    testrun: TestRun
    world: World
    compiled: Compiled
    nodes_too: bool = False  # address rules of the outside scope mean other nodes
    sent: int = 0

    def write(self) -> None:
        node = self.testrun.node
        node.reset()
        flags = 3 | CIDR_NODES * self.nodes_too | HOST_FIREWALL
        node.settings(flags=flags, event_rate=1_000_000, event_burst=1_000_000, node_ipv6=packed(NODES_OWN[6]),
                      nat_first=61000, nat_last=61000)  # fmt: skip
        rows = PolicyRows()
        for change in rows.settle(self.compiled.policies):
            assert change.value is not None
            node.datapath.map(change.table).update(change.key, change.value)
        applied = self.compiled.endpoints[NAME]
        number, audit = (rows.number_of(name) if name else 0 for name in (applied.policy, applied.audit))
        for pod, direction, enforced in (
            (WEB, Direction.INGRESS, applied.ingress_enforced),
            (CLIENT, Direction.EGRESS, applied.egress_enforced),
        ):
            node.endpoint(pod, policy=number, enforced=[int(direction)] if enforced else [], audit=audit)
        host = self.compiled.endpoints[HOST_NAME]
        number, audit = (rows.number_of(name) if name else 0 for name in (host.policy, host.audit))
        sides = [side for side, on in enumerate((host.ingress_enforced, host.egress_enforced)) if on]
        node.host(policy=number, enforced=sides, audit=audit)
        for identity in self.world.identities:
            node.datapath.map("identities").update(int(identity), {"cluster": 0})
        for network in INSIDE:
            node.range(network.version, str(network), THERE)

    def probe(self, chance: random.Random) -> tuple[str, Probe, bytes, At]:
        direction = chance.choice(tuple(Direction))
        address = chance.choice(ADDRESSES)
        inside = any(address in network for network in INSIDE if network.version == address.version)
        protocol = chance.choice((TCP, TCP, UDP, SCTP, ECHO[address.version][0]))
        port = ECHO[address.version][1] if protocol == ECHO[address.version][0] else chance.choice(PORTS)
        if chance.random() < 0.3:
            return self._host_probe(chance, direction, address, inside, protocol, port)
        identity = chance.choice([each for each in self.world.identities if each >= 256])
        if direction is Direction.INGRESS and not inside:
            direction = Direction.EGRESS
        if direction is Direction.EGRESS:
            identity = self._place(address, identity, inside, chance)
            inside = inside or (identity != WORLD and not self.nodes_too)
        at = FromTunnel(THERE, int(identity)) if direction is Direction.INGRESS else FromPod(CLIENT)
        probe = Probe(direction, identity, address, inside, protocol, port)
        return NAME, probe, self._frame(probe), at

    def _host_probe(
        self,
        chance: random.Random,
        direction: Direction,
        address: Address,
        inside: bool,
        protocol: int,
        port: int,
    ) -> tuple[str, Probe, bytes, At]:
        """By the uplink. A pod's packets come through the tunnel, and this node's do not leave by it for one."""
        if inside:
            direction = Direction.EGRESS
        pod = chance.choice([each for each in self.world.identities if each >= 256])
        identity = self._place(address, pod, inside, chance)
        inside = inside or (identity != WORLD and not self.nodes_too)
        probe = Probe(direction, identity, address, inside, protocol, port)
        at = FromOutside() if direction is Direction.INGRESS else ToOutside()
        return HOST_NAME, probe, self._frame(probe, host=True), at

    def _place(self, address: Address, identity: Identity, inside: bool, chance: random.Random) -> Identity:
        """Who has the address of what is sent to: a pod of another node, another node itself, or nobody of the cluster."""
        where = {"length": 32 + address.max_prefixlen, "family": address.version, "address": packed(str(address))}
        ipcache = self.testrun.node.datapath.map("ipcache")
        flags = POD
        if not inside:
            if chance.random() < 0.5:
                ipcache.delete(where)
                return WORLD
            identity, flags = Identity(chance.choice((6, 7))), NODE
        ipcache.update(where, {"identity": int(identity), "flags": flags, "tunnel_family": 4, "tunnel": packed(THERE.underlay)})
        return identity

    def _frame(self, probe: Probe, *, host: bool = False) -> bytes:
        assert probe.address is not None
        self.sent += 1
        family = probe.address.version
        frame = bytearray(TEMPLATES[host, probe.direction, family, probe.protocol])
        size = _ADDRESS[family]
        at = _SOURCE[family] + (size if probe.direction is Direction.EGRESS else 0)
        frame[at : at + size] = probe.address.packed
        source = (1023 + self.sent).to_bytes(2, "big")
        l4 = _L4[family]
        if probe.protocol == ECHO[family][0]:
            frame[l4 + 4 : l4 + 6] = source  # the identifier
        else:
            frame[l4 : l4 + 4] = source + probe.port.to_bytes(2, "big")
        return bytes(frame)

    def check(self, name: str, probe: Probe, frame: bytes, at: At) -> None:
        node = self.testrun.node
        self.testrun.run(at, frame)
        (event,) = node.events()
        assert event["reason"] in (0, node.reason("POLICY"), node.reason("POLICY_DENY"), node.reason("OUTSIDE")), event
        refused = event["reason"] in (node.reason("POLICY"), node.reason("POLICY_DENY"))
        endpoint, applied = self.world.endpoints[name], self.compiled.endpoints[name]
        expected = truth(self.world, endpoint, probe)
        assert refused is not expected.allowed, (probe, event, expected)
        # Where there is no way out the packet ends before anybody asks what audited policies would say.
        if event["reason"] == 0:
            without_audit = truth(self.world, endpoint, probe, audited=True)
            assert event["audited"] == (not without_audit.allowed), (probe, event, without_audit)
            if event["audited"]:
                self._named(applied.audit, event, without_audit)
                return
        if applied.ingress_enforced if probe.direction is Direction.INGRESS else applied.egress_enforced:
            assert event["direction"] == probe.direction
            self._named(applied.policy, event, expected)

    def _named(self, name: PolicyName | None, event: dict[str, Any], expected: Truth) -> None:
        """The rule that the event names is one that decided."""
        assert name is not None
        if expected.rules:
            assert self.compiled.policies[name].origin(event["rule"]) in expected.rules, (event, expected)
        else:
            assert event["rule"] == 0, (event, expected)


@WORLDS
@given(world=worlds(), seed=st.integers(0, 2**16))
def test_the_programs_answer_as_the_rules_mean(testrun: TestRun, world: World, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - probes, not a secret
    compiled = compile_policies(world.policies, world.identities, world.endpoints, world.named_ports)
    judge = Judge(testrun, world, compiled, chance.random() < 0.5)
    judge.write()
    for _ in range(PROBES):
        judge.check(*judge.probe(chance))
