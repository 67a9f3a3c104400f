"""Why a packet passes, or does not: the path from one end to the other on this node, and who decides what on it.

In: two ends in a person's words, a port and a protocol; the wiring's state, and rows looked up in the kernel. Out: the answer that
docs/agent-api.md states. Changes nothing.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from pilus_agent.desired.addresses import host_prefix, raw
from pilus_agent.desired.nodes import CIDR_NODES, LOCAL, NODE, ROUTER
from pilus_agent.desired.policy.tables import CompiledPolicy
from pilus_agent.facts import Address, Attachment
from pilus_agent.judgement import (
    HOST_PROBES,
    HOST_TUNNEL,
    EndpointJudgement,
    Judgement,
    Lookup,
    Packet,
    judge,
    judge_endpoint,
    judge_host,
)
from pilus_agent.nearest import nearest_miss
from pilus_agent.wiring import Wiring
from pilus_api.errors import PilusError
from pilus_api.identities import FIRST_FIXED, HOST, LAST_OF_CLUSTERS, WORLD, Identity
from pilus_api.labels import Labels, parse_label
from pilus_api.protocols import PROTOCOL_NAMES, UDP
from pilus_api.rule_numbers import default_deny, rule_number
from pilus_api.rules import Direction, Scope

Item = dict[str, Any]

_NUMBERS: Final = {name.upper(): number for number, name in PROTOCOL_NAMES.items()}
_ANY_ADDRESS: Final[Mapping[int, Address]] = {4: IPv4Address(0), 6: IPv6Address(0)}
_MOST_PREFIXES: Final = 3
_MOST_BACKENDS: Final = 20
_MOST_REFUSALS: Final = 64
_LONGEST: Final = 0.05  # seconds for all of them: meanwhile the agent does nothing else


@dataclass(frozen=True, slots=True)
class End:
    """One end. `identity` None: not known. `local`: a pod of this node. `outside`: address rules of the outside scope
    mean it. `node` has it. `family`: of the world, which has no address, the half that is asked about."""

    words: str
    identity: Identity | None
    address: Address | None = None
    local: Attachment | None = None
    outside: bool = False
    node: str = ""
    family: int = 0

    @property
    def is_world(self) -> bool:
        return self.identity == WORLD and self.address is None

    def in_family(self, version: int) -> "End":
        """This end as one that packets of a family have."""
        if self.is_world:
            return replace(self, family=version)
        own = next((one for one in self.local.addresses if one.version == version), None) if self.local else None
        return replace(self, address=own) if own else self

    def packet(self, direction: Direction, protocol: int, port: int) -> Packet | None:
        """One from or to this end, as the other one's policy is asked; None: it has no identity yet."""
        if self.identity is None:
            return None
        if self.family:
            return Packet(direction, self.identity, _ANY_ADDRESS[self.family], self.outside, protocol, port, bits=0)
        return Packet(direction, self.identity, self.address, self.outside, protocol, port)

    def item(self, labels: Mapping[Identity, Labels]) -> Item:
        return {
            "words": self.words,
            "address": str(self.address) if self.address else None,
            "identity": self.identity,
            "labels": [str(label) for label in labels.get(self.identity, ())] if self.identity is not None else [],
            "endpoint": self.local.number if self.local else None,
            "node": self.node,
        }


class Why:
    def __init__(self, wiring: Wiring, lookup: Lookup) -> None:
        self._wiring = wiring
        self._lookup = lookup

    def answer(self, asked: Mapping[str, Any]) -> Item:
        """Raises PilusError for ends that nobody knows, and for what is no question."""
        source, destination = _text(asked, "source"), _text(asked, "destination")
        protocol = _NUMBERS.get(_text(asked, "protocol").upper())
        port = asked.get("port")
        if protocol is None:
            raise PilusError(f"the protocol is one of {', '.join(_NUMBERS)}")
        if type(port) is not int or not 0 <= port <= 65535:
            raise PilusError("the port is a number from 0 to 65535; of ICMP it is the type")
        version = _version(destination) or _version(source)
        asking = self._end(source, version)
        service, targets = self._targets(destination, version, protocol, port)
        ways = []
        for target, number in targets:
            family = target.address.version if service and target.address else version
            ways += self._ways(asking, target, protocol, number, family)
        return {"item": {"protocol": PROTOCOL_NAMES[protocol], "service": service, "ways": ways}}

    def nearest(self, asked: Mapping[str, Any]) -> Item:
        """Of refusals that no rule decided, what would have been let pass; null where nothing is near, the policy has gone, or
        those before took too long.

        Raises PilusError for what is no question.
        """
        refusals = asked.get("refusals")
        if not isinstance(refusals, list) or len(refusals) > _MOST_REFUSALS:
            raise PilusError(f"refusals are a list of at most {_MOST_REFUSALS}")
        until = time.monotonic() + _LONGEST
        return {
            "items": [
                {"nearest": self._nearest(one) if isinstance(one, dict) and time.monotonic() < until else None} for one in refusals
            ]
        }

    def _nearest(self, refusal: Item) -> str | None:
        numbers = [refusal.get(name) for name in ("policy", "direction", "identity", "protocol", "port")]
        if not all(type(number) is int for number in numbers) or refusal["direction"] not in (0, 1):
            raise PilusError("a refusal has numbers as policy, direction, identity, protocol and port")
        policy = self._wiring.policy.numbered(refusal["policy"])
        if policy is None:
            return None
        address, outside = None, False
        if _version(text := str(refusal.get("address"))):
            address = ip_address(text)
            row = self._known(address)
            outside = self._counts_as_outside(row["flags"]) if row else refusal["identity"] == WORLD
        packet = Packet(
            Direction(refusal["direction"]), Identity(refusal["identity"]), address, outside, refusal["protocol"], refusal["port"]
        )
        return nearest_miss(policy, packet, self._wiring.identities.labels) or None

    # -- ends --------------------------------------------------------------------------------------------------------------

    def _end(self, text: str, version: int) -> End:
        if text in ("world", "reserved:world"):
            return End(text, WORLD, outside=True)
        if text == "host":
            return End(text, HOST, node=self._wiring.node)
        if "=" in text or text.startswith("reserved:"):
            return self._labelled(text)
        if _version(text):
            return self._addressed(ip_address(text))
        named = self._named(text)
        if not named:
            raise PilusError(
                f"nobody here is called {text!r}: give NAMESPACE/POD, an address, labels (k8s:app=web,...), world or host"
            )
        fitting = [end for end in named if version and end.address is not None and end.address.version == version]
        return (fitting or named)[0]

    def _labelled(self, text: str) -> End:
        """An identity that has all of these labels; without an address, so that rules by address do not speak of it."""
        wanted = {parse_label(one) for one in text.split(",")}
        labels = self._wiring.identities.labels
        found = [number for number, held in labels.items() if all(any(_means(one, label) for label in held) for one in wanted)]
        if not found:
            raise PilusError(f"no identity that this node knows has the labels {text}")
        if len(found) > 1:
            shown = ", ".join(str(number) for number in sorted(found)[:10])
            raise PilusError(f"{len(found)} identities have the labels {text} ({shown}...): give more of them, or a pod")
        return End(text, found[0])

    def _addressed(self, address: Address) -> End:
        for endpoint in self._wiring.endpoints.values():
            if address in endpoint.attachment.addresses:
                attachment = endpoint.attachment
                return End(
                    f"{attachment.namespace}/{attachment.pod}", endpoint.identity, address, attachment, node=self._wiring.node
                )
        row = self._known(address)
        if row is not None:
            node = row["flags"] & (NODE | ROUTER)
            return End(
                str(address),
                Identity(row["identity"]),
                address,
                outside=self._counts_as_outside(row["flags"]),
                node=self._node_of(address) if node else "",
            )
        if self._lookup("pod_ranges", host_prefix(address)):
            raise PilusError(f"{address} is in a node's pod range, and no pod is known to have it")
        return End(str(address), WORLD, address, outside=True)

    def _known(self, address: Address) -> Mapping[str, Any] | None:
        """Its row of ipcache."""
        return self._lookup("ipcache", host_prefix(address))

    def _is_node(self, end: End) -> bool:
        """By the address that others' tunnels have."""
        row = self._known(end.address) if end.address else None
        return row is not None and bool(row["flags"] & NODE)

    def _counts_as_outside(self, flags: int) -> bool:
        """Whether address rules of the outside scope mean an address that is known, as bpf/decide.h has it."""
        if not flags & (NODE | ROUTER) or flags & LOCAL:
            return not flags
        now = self._lookup("settings", 0)
        return now is not None and bool(now["flags"] & CIDR_NODES)

    def _node_of(self, address: Address) -> str:
        return next((node.name for node in self._wiring.facts.nodes.values() if address in (*node.addresses, *node.routers)), "")

    def _named(self, name: str) -> list[End]:
        """The pods of that name, an end for each of their addresses, IPv4 first: this node's, then those that slices name."""
        found = []
        for endpoint in self._wiring.endpoints.values():
            attachment = endpoint.attachment
            if name in (f"{attachment.namespace}/{attachment.pod}", attachment.pod, str(attachment.number)):
                whole = f"{attachment.namespace}/{attachment.pod}"
                found += [End(whole, endpoint.identity, one, attachment, node=self._wiring.node) for one in attachment.addresses]
        for slice_ in self._wiring.facts.slices.values():
            found += [
                replace(self._addressed(one.address), words=one.name)
                for one in slice_.endpoints
                if name in (one.name, one.name.partition("/")[2]) and not any(end.address == one.address for end in found)
            ]
        if len({end.words for end in found}) > 1:
            raise PilusError(f"several pods are called {name!r}: {', '.join(sorted({end.words for end in found}))}")
        return sorted(found, key=lambda end: end.address.version if end.address else 0)

    def _targets(self, text: str, version: int, protocol: int, port: int) -> tuple[str, list[tuple[End, int]]]:
        """The Service that the destination is, "" if it is none, and who it leads to on which port."""
        for held in self._wiring.services.views():
            name = f"{held['namespace']}/{held['name']}"
            addresses = {str(one["address"]) for one in held["frontends"]}
            if text != name and text not in addresses:
                continue
            asked = [ip_address(one) for one in addresses if text in (one, name) and version in (0, ip_address(one).version)]
            found = [target for address in sorted(asked, key=str) for target in self._backends(address, protocol, port)]
            if not found and not (text == name and self._named(text)):
                raise PilusError(f"Service {name} has nobody ready on {PROTOCOL_NAMES[protocol]} {port}: connections are refused")
            if found:
                return name, found[:_MOST_BACKENDS]
        return "", [(self._end(text, version), port)]

    def _backends(self, address: Address, protocol: int, port: int) -> Iterator[tuple[End, int]]:
        service = self._lookup("services", {"family": address.version, "address": raw(address), "port": port, "protocol": protocol})
        for slot in range(service["count"] if service else 0):
            held = self._lookup("backends", {"set": service["set"], "slot": slot}) if service else None
            if held is not None:
                packed = held["address"][:4] if address.version == 4 else held["address"]
                yield self._addressed(ip_address(packed)), int(held["port"])

    # -- the way -----------------------------------------------------------------------------------------------------------

    def _ways(self, source: End, destination: End, protocol: int, port: int, version: int) -> list[Item]:
        """One way; where an end is the world, and its two families do not fare the same, one for each.

        `version`: of the address that was asked for, 0 if none was.
        """
        if not (source.is_world or destination.is_world):
            return [self._way(source, destination, protocol, port)]
        other = destination if source.is_world else source
        families = [version] if version else self._families(other)
        found = {family: self._way(source.in_family(family), destination.in_family(family), protocol, port) for family in families}
        ways = list(found.values())
        if all(way["steps"] == ways[0]["steps"] for way in ways):
            return ways[:1]
        for family, way in found.items():
            way["source" if source.is_world else "destination"]["words"] += f" (IPv{family})"
        return ways

    def _families(self, end: End) -> list[int]:
        """Those in which it has addresses."""
        if end.local is not None:
            held = end.local.addresses
        else:
            own = self._wiring.own
            held = own.addresses if own else ()
        return sorted({address.version for address in held}) or [4, 6]

    def _way(self, source: End, destination: End, protocol: int, port: int) -> Item:
        if source.address and destination.address and source.address.version != destination.address.version:
            raise PilusError(f"{source.words} and {destination.words} have no address of one family")
        if not any(end.local or end.identity == HOST for end in (source, destination)):
            raise PilusError("neither end is a pod of this node, or the node itself: ask on a node that has one of them")
        steps = [
            self._step(Direction.EGRESS, source, destination, protocol, port),
            self._step(Direction.INGRESS, destination, source, protocol, port),
        ]
        told = [step for step in steps if step is not None]
        labels = self._wiring.identities.labels
        return {
            "source": source.item(labels),
            "destination": destination.item(labels),
            "port": port,
            "allowed": all(step["verdict"] != "deny" for step in told),
            "decided": all(step["verdict"] != "elsewhere" for step in told),
            "steps": told,
        }

    def _step(self, direction: Direction, end: End, other: End, protocol: int, port: int) -> Item | None:
        """What is decided at one end; None where nothing is: at the outside, and at another node's own stack."""
        item: Item = {"direction": direction.name.lower(), "at": end.words, "node": end.node, "enforced": True, "rule": None,
                      "nearest": None, "audit": None}  # fmt: skip
        if end.identity == HOST:
            return item | self._at_host(direction, other, protocol, port)
        if end.local is None:
            known = end.identity is not None and FIRST_FIXED <= end.identity <= LAST_OF_CLUSTERS
            return item | {"verdict": "elsewhere", "reason": "decided by the pod's own node: ask there"} if known else None
        packet = other.packet(direction, protocol, port)
        if packet is None:
            return item | {"verdict": "deny", "reason": f"{other.words} has no identity yet"}
        address = end.address or end.local.addresses[0]
        found = judge_endpoint(self._lookup, address, packet)
        if found is None:
            return item | {"verdict": "deny", "reason": "the pod is not in the kernel's tables"}
        return item | self._told(found, packet)

    def _at_host(self, direction: Direction, other: End, protocol: int, port: int) -> Item:
        """By this node's own policies. What its programs let through unasked is told as that."""
        settings = self._lookup("settings", 0) or {"flags": 0, "tunnel_port": 0}
        if other.identity == HOST:
            return {"verdict": "allow", "enforced": False, "reason": "a node is not asked about what stays on it"}
        if direction is Direction.EGRESS and other.local is not None and settings["flags"] & HOST_PROBES:
            return {"verdict": "allow", "enforced": False, "reason": "lifeline kubelet: a node's own stack reaches its pods"}
        if settings["flags"] & HOST_TUNNEL and (protocol, port) == (UDP, settings["tunnel_port"]) and self._is_node(other):
            return {"verdict": "allow", "enforced": False, "reason": "lifeline tunnel: what is in its packets is judged"}
        packet = other.packet(direction, protocol, port)
        if packet is None:
            return {"verdict": "deny", "reason": f"{other.words} has no identity yet"}
        found = judge_host(self._lookup, packet)
        if found is None:
            return {"verdict": "allow", "enforced": False, "reason": "no policy is about this node"}
        return self._told(found, packet)

    def _told(self, found: EndpointJudgement, packet: Packet) -> Item:
        held = found.judgement
        told: Item = {"verdict": "allow" if held.allowed else "deny", "enforced": found.enforced}
        if held.trouble:
            return told | {"reason": held.trouble}
        if not found.enforced:
            told["reason"] = f"no policy restricts its {packet.direction.name.lower()}"
        elif packet.direction is Direction.INGRESS and packet.identity == HOST and held.allowed:
            told["reason"] = "a node's own stack reaches its pods: probes"
        else:
            told |= self._because(held, packet)
        if found.audit is not None and not found.audit.allowed:
            told["audit"] = {"verdict": "deny", **self._because(found.audit, packet)}
        return told

    def _because(self, held: Judgement, packet: Packet) -> Item:
        if held.trouble:
            return {"reason": held.trouble, "rule": None}
        policy = self._wiring.policy.numbered(held.policy)
        rules = self._wiring.policy.rules_of(policy) if policy else {}
        depends = self._depends(held, packet, policy) if policy else ""
        if held.rule:
            by = "by address" if held.by_address else "by identity"
            return {
                "reason": f"a rule {'allows' if held.allowed else 'denies'} it, {by}{depends}",
                "rule": rules.get(str(rule_number(held.policy, held.rule))),
            }
        if held.allowed:
            return {"reason": f"no rule means it, and nothing denies by default{depends}", "rule": None}
        near = nearest_miss(policy, packet, self._wiring.identities.labels) if policy else ""
        default = default_deny(held.policy, packet.direction)
        return {"reason": f"no rule means it{depends}", "rule": rules.get(str(default)), "nearest": near or None}

    def _depends(self, held: Judgement, packet: Packet, policy: CompiledPolicy) -> str:
        """Which addresses fare otherwise than the world at large, "" if none do.

        Which prefixes have rows, the agent knows; what these say, the kernel is asked, once for all that are to say the same.
        """
        if packet.address is None or packet.bits is None:
            return ""
        said: dict[bytes, bool] = {}
        others = []
        for key, peer_class in policy.directions[packet.direction].cidrs.items():
            network, wanted = key.network, peer_class.table.name
            if key.scope is not Scope.OUTSIDE or network.version != packet.address.version or network.prefixlen <= packet.bits:
                continue
            if wanted not in said:
                within = replace(packet, address=network.network_address, bits=network.prefixlen)
                said[wanted] = judge(self._lookup, held.policy, within).allowed
            if said[wanted] != held.allowed:
                others.append(network)
        if not others:
            return ""
        shown = ", ".join(map(str, sorted(others, key=lambda one: (one.prefixlen, one))[:_MOST_PREFIXES]))
        more = f" and {len(others) - _MOST_PREFIXES} more" if len(others) > _MOST_PREFIXES else ""
        verb = f"{'is' if len(others) == 1 else 'are'} {'denied' if held.allowed else 'allowed'}"
        return f"; it depends on the address: {shown}{more} {verb}"


def _means(wanted: Any, label: Any) -> bool:
    return wanted.source in ("any", label.source) and (wanted.key, wanted.value) == (label.key, label.value)


def _text(asked: Mapping[str, Any], key: str) -> str:
    held = asked.get(key)
    if not isinstance(held, str) or not 0 < len(held) <= 4096:
        raise PilusError(f"{key} is to be given as text")
    return held


def _version(text: str) -> int:
    try:
        return ip_address(text).version
    except ValueError:
        return 0
