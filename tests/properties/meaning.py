"""What policy objects mean, read from the objects as people write them: no models, no rules, no selectors, no tables.

Written from the two APIs' own words and docs/resources.md, and sharing nothing with the product, not even how a label is written:
here one is (source, key, value). Objects are such that the API server accepts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

Raw = Mapping[str, Any]
Label = tuple[str, str, str]
Address = IPv4Address | IPv6Address
Names = Mapping[str, frozenset[tuple[int, int]]]

INGRESS, EGRESS = 0, 1
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
TRANSPORTS = {"TCP": (TCP,), "UDP": (UDP,), "SCTP": (SCTP,), "ANY": (TCP, UDP, SCTP)}
ICMP_NAMES = {"IPv4": {"EchoReply": 0, "EchoRequest": 8, "Echo": 8}, "IPv6": {"EchoRequest": 128, "EchoReply": 129}}
NAMESPACE, NAMESPACE_LABELS = "io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels."
CLUSTER, ACCOUNT = "io.cilium.k8s.policy.cluster", "io.cilium.k8s.policy.serviceaccount"
ADMINS = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")
LOCAL = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
_NO_NAMES: Names = {}


@dataclass(frozen=True)
class End:
    """Somebody. `labels` None: nobody has told of this number. `outside`: no pod's and no node's address."""

    identity: int
    labels: frozenset[Label] | None
    addresses: tuple[Address, ...] = ()
    names: Names = field(default_factory=dict)
    outside: bool = False


@dataclass(frozen=True)
class Cluster:
    """`namespaces`: labels, and the mode that they say. `services`: those without a selector, by namespace and name, with labels
    and addresses. `ends`: whom packets may come from and go to. `governed`: endpoints; "host" is this node."""

    settings: Mapping[str, Any]
    namespaces: Mapping[str, tuple[Mapping[str, str], str]]
    groups: Mapping[str, Sequence[str]]
    services: Mapping[tuple[str, str], tuple[Mapping[str, str], Sequence[str]]]
    api_servers: Sequence[str]
    ends: Sequence[End]
    governed: Mapping[str, End]
    policies: Sequence[Raw]

    @property
    def other_nodes(self) -> list[End]:
        return [end for end in self.ends if ("reserved", "remote-node", "") in _labels(end)]

    @property
    def nodes_by_label(self) -> bool:
        return bool(self.settings["enable_node_selector_labels"])


@dataclass(frozen=True)
class Packet:
    """`address`: the other side's, None where there is none to ask about. `outside`: rules of cilium.io by address may mean it."""

    direction: int
    peer: End
    address: Address | None
    outside: bool
    protocol: int
    port: int


class Hit(NamedTuple):
    """A rule that means a packet. `tier`: 0, 1, 2. `where`: kind, namespace, name, path."""

    tier: int
    place: tuple[int, int]
    action: str
    where: tuple[str, str, str, str]


def decide(
    cluster: Cluster, me: str, packet: Packet, *, audited: bool = False
) -> tuple[bool, frozenset[tuple[str, str, str, str]]]:
    """Whether it passes, and the rules of which any may be given as the reason (none: no rule decided).

    `audited`: as if policies in audit mode were enforced.
    """
    if packet.direction == INGRESS and packet.peer.identity == 1:
        return True, frozenset()
    mode = cluster.settings["enable_policy"]
    if mode == "never" or (me == "host" and cluster.settings["enable_host_firewall"] is False):
        return True, frozenset()
    taking_part = [policy for policy in cluster.policies if audited or not in_audit(cluster, policy)]
    hits = [hit for policy in taking_part for hit in _hits(cluster, policy, me, packet, audited)]
    if me == "host":
        way = ("ingress", "egress")[packet.direction]
        hits += (Hit(0, (0, 0), "allow", ("Lifeline", "", name, way)) for name in _lifelines(cluster, packet))
    if (found := _ordered(hits, 0)) is not None:
        return found
    middle = [hit for hit in hits if hit.tier == 1]
    for action in ("deny", "allow"):
        if reasons := frozenset(hit.where for hit in middle if hit.action == action):
            return action == "allow", reasons
    closed = any(packet.direction in _closes(cluster, policy, me) for policy in taking_part)
    # A pod that nobody knows yet is closed, and so is everybody where the setting says so.
    closed = closed or ("reserved", "init", "") in _labels(cluster.governed[me])
    everyone = mode == "always" and (me != "host" or cluster.settings["enable_host_firewall"] is True)
    closed = closed or (everyone and (audited or not cluster.settings["policy_audit_mode"]))
    if closed:
        return False, frozenset()
    return _ordered(hits, 2) or (True, frozenset())


def in_audit(cluster: Cluster, policy: Raw) -> bool:
    """The nearest word holds: the policy's, its namespace's, the setting's. A word that is none enforces."""
    said = policy["metadata"].get("annotations", {}).get("pilus.io/mode") or None
    if said is None and "namespace" in policy["metadata"]:
        said = cluster.namespaces[policy["metadata"]["namespace"]][1] or None
    return bool(cluster.settings["policy_audit_mode"]) if said is None else said == "audit"


def _ordered(hits: Sequence[Hit], tier: int) -> tuple[bool, frozenset[tuple[str, str, str, str]]] | None:
    """The first rule decides; of two in one place a denial, then an allow; what is passed is for the next tier, if there is one."""
    held = [hit for hit in hits if hit.tier == tier]
    first = [hit for hit in held if hit.place == min(each.place for each in held)]
    for action in ("deny", "allow"):
        # Beside what allows in the last tier, what passes is as good a reason.
        like = (action, "pass") if tier == 2 and action == "allow" else (action,)
        if reasons := frozenset(hit.where for hit in first if hit.action in like):
            return action == "allow", reasons
    return None


def _lifelines(cluster: Cluster, packet: Packet) -> Iterator[str]:
    """Those that mean the packet, and that no policy cuts."""
    held = {name for name in ("host", "remote-node", "kube-apiserver") if ("reserved", name, "") in _labels(packet.peer)}
    server = "kube-apiserver" in held or _is_api_server(cluster, packet)
    node, ours = bool(held - {"kube-apiserver"}), bool(held) or server
    of, port = packet.protocol, packet.port
    means = {
        "ssh": ((of, port) == (TCP, 22), False),
        "etcd": (ours and of == TCP and port in (2379, 2380), of == TCP and port in (2379, 2380)),
        "kubelet": (ours and (of, port) == (TCP, 10250),) * 2,
        "apiserver": ((of, port) == (TCP, 6443), server and of == TCP),
        "tunnel": (node and (of, port) == (UDP, 8472),) * 2,
        "udp/53-79": (of == UDP and 53 <= port <= 79, False),
        "dhcp": (of == UDP and port in (68, 546), of == UDP and port in (67, 547)),
    }
    cut = {
        word
        for policy in cluster.policies
        if not in_audit(cluster, policy) and any(_governs(cluster, policy, spec, "host") for _, spec in _specs(policy))
        for word in policy["metadata"].get("annotations", {}).get("pilus.io/cut-lifelines", "").replace(",", " ").split()
    }
    for name in cluster.settings["host_firewall_lifelines"]:
        if means[name][packet.direction] and not cut & {name, "all"}:
            yield name


def _hits(cluster: Cluster, policy: Raw, me: str, packet: Packet, audited: bool) -> Iterator[Hit]:
    if policy["kind"] in ADMINS:
        yield from _admin_hits(cluster, policy, me, packet)
    elif policy["kind"] == "NetworkPolicy":
        yield from _kubernetes_hits(cluster, policy, me, packet, audited)
    else:
        yield from _cilium_hits(cluster, policy, me, packet, audited)


def _where(policy: Raw, path: str) -> tuple[str, str, str, str]:
    return policy["kind"], policy["metadata"].get("namespace", ""), policy["metadata"]["name"], path


# -- labels ------------------------------------------------------------------------------------------------------------------


def _labels(end: End) -> frozenset[Label]:
    return end.labels if end.labels is not None else frozenset()


def _key(text: str) -> tuple[str, str]:
    for sign in ("$", "reserved."):
        if text.startswith(sign):
            return "reserved", text.removeprefix(sign)
    source, colon, key = text.partition(":")
    return (source, key) if colon else ("any", text)


def _holds(labels: frozenset[Label], source: str, key: str, operator: str, values: Sequence[str]) -> bool:
    # What a Node object says of a node is no endpoint's label, unless the source is spelt out.
    found = {value for of, name, value in labels if name == key and (of == source or (source == "any" and of != "node"))}
    match operator:
        case "In":
            return bool(found & set(values))
        case "NotIn":
            return not found & set(values)
        case "Exists":
            return bool(found)
        case _:
            return not found


Need = tuple[str, str, str, Sequence[str]]


def _needs(selector: Raw, source: str = "", prefix: str = "") -> list[Need]:
    """`source` given: keys are plain ones of that source."""
    needs: list[Need] = [(key, "", "In", [value]) for key, value in selector.get("matchLabels", {}).items()]
    needs += [(each["key"], "", each["operator"], each.get("values", ())) for each in selector.get("matchExpressions", ())]
    return [(*((source, prefix + key) if source else _key(key)), operator, values) for key, _, operator, values in needs]


def _meets(labels: frozenset[Label] | None, needs: Sequence[Need]) -> bool:
    return labels is not None and all(_holds(labels, *need) for need in needs)


def _in(namespace: str) -> Need:
    return "k8s", NAMESPACE, "In", [namespace]


_SOMEWHERE: Need = ("k8s", NAMESPACE, "Exists", ())


def _of_node(needs: Sequence[Need], *sources: str) -> list[Need]:
    return [("node" if source in sources else source, *rest) for source, *rest in needs]  # type: ignore[misc]


# -- whom a policy governs -------------------------------------------------------------------------------------------------


def _specs(policy: Raw) -> list[tuple[str, Raw]]:
    found = [("spec", policy["spec"])] if "spec" in policy else []
    return found + [(f"specs[{index}]", spec) for index, spec in enumerate(policy.get("specs", ()))]


def _governs(cluster: Cluster, policy: Raw, spec: Raw, me: str) -> bool:
    labels, namespace = _labels(cluster.governed[me]), policy["metadata"].get("namespace", "")
    if "nodeSelector" in spec:
        return me == "host" and _meets(labels, _of_node(_needs(spec["nodeSelector"]), "any", "k8s"))
    if me == "host":
        return False
    if policy["kind"] in ADMINS:
        return _meets(labels, _pods(spec["subject"]))
    if policy["kind"] == "NetworkPolicy":
        return _meets(labels, [*_needs(spec["podSelector"], "k8s"), _in(namespace)])
    selector = spec["endpointSelector"]
    if not namespace:
        return _meets(labels, _needs(selector))
    # Another namespace in it is overridden.
    kept = {key: value for key, value in selector.get("matchLabels", {}).items() if key != f"k8s:{NAMESPACE}"}
    return _meets(labels, [*_needs({**selector, "matchLabels": kept}), _in(namespace)])


def _closes(cluster: Cluster, policy: Raw, me: str) -> set[int]:
    """The directions in which it denies what nobody allows."""
    if policy["kind"] in ADMINS:
        return set()
    found = set()
    for _, spec in _specs(policy):
        if not _governs(cluster, policy, spec, me):
            continue
        if policy["kind"] == "NetworkPolicy":
            found |= {("Ingress", "Egress").index(each) for each in _types(spec)}
            continue
        asked = spec.get("enableDefaultDeny", {})
        for direction, word in enumerate(("ingress", "egress")):
            if asked.get(word, bool(spec.get(word) or spec.get(f"{word}Deny"))):
                found.add(direction)
    return found


def _types(spec: Raw) -> Sequence[str]:
    given: Sequence[str] = spec.get("policyTypes", ())
    return given or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


# -- cilium.io ---------------------------------------------------------------------------------------------------------------


def _cilium_hits(cluster: Cluster, policy: Raw, me: str, packet: Packet, audited: bool) -> Iterator[Hit]:
    word = ("ingress", "egress")[packet.direction]
    for path, spec in _specs(policy):
        if not _governs(cluster, policy, spec, me):
            continue
        for section in (word, f"{word}Deny"):
            deny = section != word
            for index, element in enumerate(spec.get(section) or ()):
                where = _where(policy, f"{path}.{section}[{index}]")
                for entry in _entries(element, packet.protocol, deny=deny):
                    # What is restricted by something that is not in force is closed, whoever else allows it.
                    closes = deny or entry.restricted
                    for who in _others(cluster, policy, spec, element, me, packet, audited, deny=deny, closes=closes):
                        if not _at(entry, cluster, me, packet, by_address=who.by_address, deny=closes):
                            continue
                        if not (entry.layer_7 and _plain(cluster, who.name, entry, me, packet, audited)):
                            yield Hit(1, (0, 0), "deny" if closes else "allow", where)


class Who(NamedTuple):
    """A peer that is the other side. `name`: who is written alike has the same. `by_address`: it is known by its address alone."""

    name: Any
    by_address: bool


ANYBODY = "anybody"


class Entry(NamedTuple):
    """What an element says of ports: all of them, types of ICMP, or one port of one protocol (with `low` None by its name)."""

    restricted: bool
    layer_7: bool = False  # and by rules of layer 7 alone
    sort: str = "all"
    protocol: int = 0
    low: int | None = None
    high: int = 0
    called: str = ""


def _entries(element: Raw, protocol: int, *, deny: bool) -> Iterator[Entry]:
    """Those that may mean a packet of the protocol."""
    closed = not deny and element.get("authentication", {}).get("mode", "disabled") != "disabled"
    if element.get("icmps"):
        for held in (each for rule in element["icmps"] for each in rule.get("fields") or ()):
            family = held.get("family", "IPv4")
            named = ICMP_NAMES[family].get(str(held["type"]))
            number = int(held["type"]) if named is None else named
            if protocol == (ICMP if family == "IPv4" else ICMPV6):
                yield Entry(closed, sort="type", protocol=protocol, low=number, high=number)
    elif element.get("toPorts"):
        for rule in element["toPorts"]:
            harder = any(rule.get(key) for key in ("terminatingTLS", "originatingTLS", "serverNames", "listener"))
            layer_7 = any(rule.get("rules", {}).values())  # an empty list of it says nothing
            restricted = not deny and (closed or harder or layer_7)
            for port in rule.get("ports") or ():
                if protocol in TRANSPORTS[port.get("protocol", "ANY").upper()]:
                    yield Entry(restricted, restricted and not closed and not harder, "port", protocol, *_port(port))
    else:
        yield Entry(closed)


def _port(wanted: Raw) -> tuple[int | None, int, str]:
    """Of cilium.io, where the number is a text."""
    text = str(wanted["port"])
    if not text.isdigit():
        return None, 0, text.lower()
    low = int(text, 8) if text.startswith("0") else int(text)
    end: int = wanted.get("endPort", 0)
    return (0, 65535, "") if low == end == 0 else (low, max(low, end), "")


def _plain(cluster: Cluster, who: Any, entry: Entry, me: str, packet: Packet, audited: bool) -> bool:
    """Whether somebody allows that very port to those very peers without more: then rules of layer 7 restrict nothing."""
    word = ("ingress", "egress")[packet.direction]
    for policy in cluster.policies:
        if policy["kind"] in ADMINS or (in_audit(cluster, policy) and not audited):
            continue
        for _, spec in _specs(policy):
            if not _governs(cluster, policy, spec, me):
                continue
            if policy["kind"] == "NetworkPolicy":
                if _plain_of_kubernetes(cluster, policy, who, entry, me, packet, audited):
                    return True
                continue
            for element in spec.get(word) or ():
                like = [
                    each for each in _entries(element, packet.protocol, deny=False) if not each.restricted and each[2:] == entry[2:]
                ]
                others = _others(cluster, policy, spec, element, me, packet, audited, deny=False, closes=False) if like else ()
                if any(other.name == who for other in others):
                    return True
    return False


def _plain_of_kubernetes(cluster: Cluster, policy: Raw, who: Any, entry: Entry, me: str, packet: Packet, audited: bool) -> bool:
    word = ("ingress", "egress")[packet.direction]
    if word.capitalize() not in _types(policy["spec"]):
        return False
    demands = _demands(cluster, me, packet.direction, False, audited)
    for rule in policy["spec"].get(word) or ():
        for wanted in rule.get("ports") or ():
            port = wanted.get("port")
            low, high, called = (
                (0, 65535, "")
                if port is None
                else (None, 0, port)
                if isinstance(port, str)
                else (port, wanted.get("endPort", port), "")
            )
            if packet.protocol in TRANSPORTS[wanted.get("protocol", "TCP")] and (low, high, called) == entry[4:]:
                for peer in rule.get(("from", "to")[packet.direction]) or [None]:
                    if any(each.name == who for each in _kubernetes_peer(cluster, policy, peer, packet, demands)):
                        return True
    return False


def _others(
    cluster: Cluster, policy: Raw, spec: Raw, element: Raw, me: str, packet: Packet, audited: bool, *, deny: bool, closes: bool
) -> Iterator[Who]:
    """The peers of an element that are the other side. `closes`: what they mean is denied, so all that they may be are."""
    side = ("from", "to")[packet.direction]
    peers = {key.removeprefix(side): value for key, value in element.items() if key.startswith(side) and key != "toPorts"}
    if not peers:
        # `{}` is nobody; anybody needs ports beside it.
        if element.get("toPorts") or element.get("icmps"):
            yield Who(ANYBODY, by_address=False)
    elif "all" in (peers.get("Entities") or ()):
        yield Who(ANYBODY, by_address=False)
    else:
        yield from _peers(cluster, policy, spec, peers, me, packet, audited, deny=deny, closes=closes)


def _peers(
    cluster: Cluster, policy: Raw, spec: Raw, peers: Raw, me: str, packet: Packet, audited: bool, *, deny: bool, closes: bool
) -> Iterator[Who]:
    labels, outside = packet.peer.labels, packet.outside and packet.address is not None
    if outside:
        yield from (Who(name, by_address=True) for name in _by_address(cluster, peers, packet, deny=closes))
    for selector in peers.get("Endpoints") or ():
        demands = _demands(cluster, me, packet.direction, deny, audited)
        yield from _is_endpoint(cluster, packet, [*_endpoint_needs(policy, spec, selector), *demands])
    for name in peers.get("Entities") or ():
        yield from (Who(meant, by_address=False) for meant in _is_entity(cluster, labels, name))
    for selector in peers.get("Nodes") or ():
        if ("reserved", "remote-node", "") in _labels(packet.peer):
            needs = _of_node(_needs(selector), "any")
            if _meets(labels, needs) if cluster.nodes_by_label else closes:
                yield Who(_written([*needs, ("reserved", "remote-node", "In", [""])]), by_address=False)


def _by_address(cluster: Cluster, peers: Raw, packet: Packet, *, deny: bool) -> Iterator[Any]:
    """What of these the other side is, who is outside."""
    yield from ((_network(text), ()) for text in peers.get("CIDR") or () if packet.address in _network(text))
    for rule in peers.get("CIDRSet") or ():
        yield from _in_rule(cluster, packet, rule, deny)
    for name in peers.get("Entities") or ():
        if name in ("cluster", "kube-apiserver") and _is_api_server(cluster, packet):
            # As an entity it may be a node by its address, where rules by address mean nodes: that is not the same.
            nodes = bool(cluster.settings["policy_cidr_match_mode"])
            yield "api server" if nodes else _outsiders(packet, servers=True, others=False)
    if (peers.get("Groups") or peers.get("FQDNs")) and deny:
        yield "anybody outside"
    for entry in peers.get("Services") or ():
        if _behind(cluster, packet, entry, deny):
            yield ip_network(str(packet.address)), ()


def _written(needs: Sequence[Need]) -> Any:
    """The same for those that say the same."""
    return frozenset((source, key, operator, frozenset(values)) for source, key, operator, values in needs)


def _outsiders(packet: Packet, *, servers: bool, others: bool) -> Any:
    """Those outside of one family: API servers, everybody else, or both."""
    return "outside", packet.address.version if packet.address else 0, servers, others


def _is_endpoint(cluster: Cluster, packet: Packet, needs: Sequence[Need]) -> Iterator[Who]:
    """The other side, if it meets these. Its address alone says so where of those outside some do and some don't: one family, or
    API servers."""
    outside = [{("reserved", "world", "")}]
    for family in (4, 6):
        outside.append({("reserved", "world", ""), ("reserved", f"world-ipv{family}", "")})
        outside.append({*outside[-1], ("reserved", "kube-apiserver", "")})
    met = [_meets(frozenset(labels), needs) for labels in outside]
    if packet.peer.outside and packet.address is not None and any(met) and not all(met):
        others, servers = met[1:3] if packet.address.version == 4 else met[3:]
        if servers if _is_api_server(cluster, packet) else others:
            yield Who(_outsiders(packet, servers=servers, others=others), by_address=True)
    elif _meets(packet.peer.labels, needs):
        yield Who(_written(needs), by_address=False)


def _endpoint_needs(policy: Raw, spec: Raw, selector: Raw, *, requires: bool = False) -> list[Need]:
    needs, namespace = _needs(selector), policy["metadata"].get("namespace", "")
    reserved = not requires and any(source == "reserved" for source, *_ in needs)
    if namespace:
        named = any(
            source in ("k8s", "any") and (key == NAMESPACE or key.startswith(NAMESPACE_LABELS)) for source, key, *_ in needs
        )
        return needs if named or reserved else [*needs, _in(namespace)]
    governed = _needs(spec.get("endpointSelector", {}))
    init = any((source, key) == ("reserved", "init") and operator in ("In", "Exists") for source, key, operator, _ in governed)
    return needs if reserved or init else [*needs, _SOMEWHERE]


def _demands(cluster: Cluster, me: str, direction: int, deny: bool, audited: bool) -> list[Need]:
    """What policies that govern this endpoint and take part require of every endpoint peer."""
    section, field_name = ("ingress", "egress")[direction] + ("Deny" if deny else ""), ("from", "to")[direction] + "Requires"
    found = []
    for policy in cluster.policies:
        if policy["kind"] not in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"):
            continue
        if in_audit(cluster, policy) and not audited:
            continue
        for _, spec in _specs(policy):
            if _governs(cluster, policy, spec, me):
                for element in spec.get(section) or ():
                    for selector in element.get(field_name) or ():
                        found += _endpoint_needs(policy, spec, selector, requires=True)
    return found


def _is_entity(cluster: Cluster, labels: frozenset[Label] | None, name: str) -> Iterator[Any]:
    """What of it the other side is, as a selector would be written."""
    names = LOCAL if name == "cluster" else ("world", "world-ipv4", "world-ipv6") if name == "world" else (name,)
    for each in names:
        if labels is not None and ("reserved", each, "") in labels:
            yield _written([("reserved", each, "In", [""])])
    if name == "cluster" and labels is not None and ("k8s", CLUSTER, "blue") in labels:
        yield _written([("k8s", CLUSTER, "In", ["blue"])])


def _is_api_server(cluster: Cluster, packet: Packet) -> bool:
    return packet.outside and packet.address in [ip_address(text) for text in cluster.api_servers]


def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


def _in_rule(cluster: Cluster, packet: Packet, rule: Raw, deny: bool) -> Iterator[Any]:
    """The prefixes, with what is excepted, that the address is in."""
    excepted = tuple(_network(text) for text in rule.get("except") or ())
    if any(packet.address in each for each in excepted):
        return
    if "cidrGroupRef" in rule:
        texts = cluster.groups.get(rule["cidrGroupRef"])
        if texts is None:  # it may be anything outside
            texts = ["0.0.0.0/0", "::/0"] if deny else []
    else:
        texts = [rule["cidr"]]
    for network in map(_network, texts):
        if packet.address in network:
            yield network, tuple(each for each in excepted if each.version == network.version)


def _behind(cluster: Cluster, packet: Packet, entry: Raw, deny: bool) -> bool:
    """An entry may name a Service, and select some."""
    answers = []
    if name := entry.get("k8sService", {}).get("serviceName"):
        space = entry["k8sService"].get("namespace", "")
        answers.append([held for (of, called), held in cluster.services.items() if called == name and of in (space or of,)])
    if "k8sServiceSelector" in entry:
        space, wanted = entry["k8sServiceSelector"].get("namespace", ""), entry["k8sServiceSelector"]["selector"]
        labelled = {key: frozenset(("k8s", *each) for each in held[0].items()) for key, held in cluster.services.items()}
        answers.append(
            [
                held
                for (of, called), held in cluster.services.items()
                if of in (space or of,) and _meets(labelled[of, called], _needs(wanted))
            ]
        )
    return any(any(str(packet.address) == text for _, texts in found for text in texts) if found else deny for found in answers)


# -- ports -------------------------------------------------------------------------------------------------------------------


def _at(entry: Entry, cluster: Cluster, me: str, packet: Packet, *, by_address: bool, deny: bool) -> bool:
    if entry.sort == "all":
        return True
    if entry.low is None:
        return _is_named(entry.called, cluster.governed[me], packet, by_address=by_address, deny=deny)
    return entry.low <= packet.port <= entry.high


def _is_named(name: str, me: End, packet: Packet, *, by_address: bool, deny: bool) -> bool:
    """What the destination calls so. An address calls no port anything: that allows nothing, and denies every port."""
    if packet.direction == INGRESS:
        return (packet.protocol, packet.port) in me.names.get(name, ())
    if by_address:
        return deny
    names = packet.peer.names if packet.peer.labels is not None else _NO_NAMES
    return (packet.protocol, packet.port) in names.get(name, ())


# -- NetworkPolicy ---------------------------------------------------------------------------------------------------------


def _kubernetes_hits(cluster: Cluster, policy: Raw, me: str, packet: Packet, audited: bool) -> Iterator[Hit]:
    spec, word = policy["spec"], ("ingress", "egress")[packet.direction]
    if not _governs(cluster, policy, spec, me) or word.capitalize() not in _types(spec):
        return
    demands = _demands(cluster, me, packet.direction, False, audited)
    for index, rule in enumerate(spec.get(word) or ()):
        peers = rule.get(("from", "to")[packet.direction]) or [None]
        if any(_kubernetes_rule(cluster, policy, rule, peer, cluster.governed[me], packet, demands) for peer in peers):
            yield Hit(1, (0, 0), "allow", _where(policy, f"spec.{word}[{index}]"))


def _kubernetes_rule(
    cluster: Cluster, policy: Raw, rule: Raw, peer: Raw | None, me: End, packet: Packet, demands: Sequence[Need]
) -> bool:
    for who in _kubernetes_peer(cluster, policy, peer, packet, demands):
        if any(_kubernetes_port(each, me, packet, who.by_address) for each in rule.get("ports") or [None]):
            return True
    return False


def _kubernetes_peer(cluster: Cluster, policy: Raw, peer: Raw | None, packet: Packet, demands: Sequence[Need]) -> Iterator[Who]:
    if peer is not None and "ipBlock" in peer:
        block = peer["ipBlock"]
        excepted = any(packet.address in _network(text) for text in block.get("except") or () if packet.address)
        if packet.address is not None and packet.address in _network(block["cidr"]) and not excepted:
            yield Who("block", by_address=True)  # one of cilium.io means other addresses
        return
    if peer is None and not demands:
        yield Who(ANYBODY, by_address=False)
        return
    needs = _needs(peer.get("podSelector", {}), "k8s") if peer is not None else []
    if peer is not None and "namespaceSelector" in peer:
        needs += [*_needs(peer["namespaceSelector"], "k8s", NAMESPACE_LABELS), _SOMEWHERE]
    elif peer is not None:
        needs.append(_in(policy["metadata"]["namespace"]))
    yield from _is_endpoint(cluster, packet, [*needs, *demands])


def _kubernetes_port(wanted: Raw | None, me: End, packet: Packet, by_address: bool) -> bool:
    if wanted is None:
        return True
    if packet.protocol not in TRANSPORTS[wanted.get("protocol", "TCP")]:
        return False
    port = wanted.get("port")
    if isinstance(port, str):
        return _is_named(port, me, packet, by_address=by_address, deny=False)
    return port is None or port <= packet.port <= wanted.get("endPort", port)


# -- administrators' ---------------------------------------------------------------------------------------------------------


def _pods(held: Raw) -> list[Need]:
    """A subject, or a peer that is pods: by their namespaces, or by both."""
    pods = held.get("pods", {"namespaceSelector": held.get("namespaces"), "podSelector": {}})
    among = _needs(pods.get("namespaceSelector", {}), "k8s", NAMESPACE_LABELS)
    return [*_needs(pods["podSelector"], "k8s"), *among, _SOMEWHERE]


def _admin_hits(cluster: Cluster, policy: Raw, me: str, packet: Packet) -> Iterator[Hit]:
    spec, word = policy["spec"], ("ingress", "egress")[packet.direction]
    if not _governs(cluster, policy, spec, me):
        return
    baseline = policy["kind"] == "BaselineAdminNetworkPolicy" or spec.get("tier") == "Baseline"
    for index, rule in enumerate(spec.get(word) or ()):
        action = {"Accept": "allow"}.get(rule["action"], rule["action"].lower())
        path = f"spec.{word}[{index}]" + (f" ({rule['name']})" if "name" in rule else "")
        place = (spec.get("priority", 0), index)
        peers = rule[("from", "to")[packet.direction]]
        # What a newer definition has and this one doesn't know: it allows nobody, and closes everything, or all ports of its peers.
        unknown_port = not all(map(_known_port, [*(rule.get("ports") or ()), *(rule.get("protocols") or ())]))
        if not all(peers) or unknown_port:
            who = not all(peers) or any(_admin_peer(cluster, peer, packet)[0] for peer in peers)
            if action != "allow" and who:
                yield Hit(2 if baseline else 0, place, "deny", _where(policy, path))
            continue
        for peer in peers:
            who, by_address, known = _admin_peer(cluster, peer, packet)
            says = action if known else "deny"  # what is not in force allows nothing, and closes what it could be
            in_force = known or action != "allow"
            if in_force and who and _admin_ports(rule, cluster.governed[me], packet, by_address=by_address, deny=says == "deny"):
                yield Hit(2 if baseline else 0, place, says, _where(policy, path))


def _known_port(held: Raw) -> bool:
    return bool(held) and all(held[word].get("destinationPort") for word in ("tcp", "udp", "sctp") if word in held)


def _admin_peer(cluster: Cluster, peer: Raw, packet: Packet) -> tuple[bool, bool, bool]:
    """Whether it is the other side, by its address, and whether the peer is in force."""
    if "networks" in peer:
        return packet.address is not None and any(packet.address in _network(text) for text in peer["networks"]), True, True
    if "nodes" in peer:
        node = any(("reserved", name, "") in _labels(packet.peer) for name in ("host", "remote-node"))
        if not cluster.nodes_by_label:
            return node, False, False
        return node and _meets(packet.peer.labels, _needs(peer["nodes"], "node")), False, True
    if "domainNames" in peer:
        return False, True, False
    return _meets(packet.peer.labels, _pods(peer)), False, True


def _admin_ports(rule: Raw, me: End, packet: Packet, *, by_address: bool, deny: bool) -> bool:
    held = [*(rule.get("ports") or ()), *(rule.get("protocols") or ())]
    return not held or any(_admin_port(each, me, packet, by_address=by_address, deny=deny) for each in held)


def _admin_port(held: Raw, me: End, packet: Packet, *, by_address: bool, deny: bool) -> bool:
    if name := held.get("namedPort") or held.get("destinationNamedPort"):
        return _is_named(name.lower(), me, packet, by_address=by_address, deny=deny)
    if "portNumber" in held:
        return (packet.protocol, packet.port) == (
            *TRANSPORTS[held["portNumber"].get("protocol", "TCP")],
            held["portNumber"]["port"],
        )
    if "portRange" in held:
        span = held["portRange"]
        return packet.protocol in TRANSPORTS[span.get("protocol", "TCP")] and span["start"] <= packet.port <= span["end"]
    for word in ("tcp", "udp", "sctp"):
        if word in held and packet.protocol in TRANSPORTS[word.upper()]:
            port = held[word]["destinationPort"]
            if "number" in port:
                return packet.port == int(port["number"])
            return bool(port["range"]["start"] <= packet.port <= port["range"]["end"])
    return False
