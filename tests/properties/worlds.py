"""Small worlds, dense enough that rules meet: few keys, few values, prefixes within prefixes, ports next to each other."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from random import Random

from hypothesis import strategies as st
from tests.properties.oracle import Probe, World

from pilus_agent.desired.policy.tables import Endpoint
from pilus_api.identities import HOST, RESERVED, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rules import RULES_OF_A_PRIORITY, AddressPeer, Direction, Origin, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Operator, Requirement, Selector, selector

KEYS = ("app", "tier", "env")
VALUES = ("a", "b", "c")
NAMES = ("http", "dns")
PROTOCOLS = (1, 6, 17, 58, 132)
PORTS = (0, 1, 7, 8, 79, 80, 81, 127, 128, 443, 8079, 8080, 8090, 8191, 8192, 32767, 32768, 65534, 65535)
NETWORKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.3.0/24", "10.128.0.0/9", "192.168.0.0/16",
        "::/0", "fd00::/8", "fd00:1::/32", "fd00:1:2::/48", "fd00:1:2::3/128",
    )
)  # fmt: skip
ADDRESSES: tuple[IPv4Address | IPv6Address, ...] = tuple(
    ip_address(text)
    for text in (
        "10.1.2.3", "10.1.2.4", "10.1.3.9", "10.1.9.9", "10.200.0.1", "10.9.9.9", "192.168.7.7", "8.8.8.8",
        "fd00:1:2::3", "fd00:1:2::4", "fd00:1:9::1", "fd00:9::1", "2001:db8::1",
    )
)  # fmt: skip

label_sets: st.SearchStrategy[Labels] = st.lists(
    st.builds(Label, st.sampled_from(("k8s", "own", "node")), st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=4
).map(canonical)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    source, key = draw(st.sampled_from(("any", "k8s", "own", "node"))), draw(st.sampled_from(KEYS))
    operator = draw(st.sampled_from(tuple(Operator)))
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return Requirement(source, key, operator)
    return Requirement(source, key, operator, tuple(sorted(draw(st.sets(st.sampled_from(VALUES), max_size=2)))))


reserved_selectors = st.sampled_from(("host", "world", "remote-node", "kube-apiserver")).map(
    lambda name: selector(Requirement("reserved", name, Operator.EXISTS))
)
selectors: st.SearchStrategy[Selector] = st.one_of(
    st.lists(requirements(), max_size=3).map(lambda found: selector(*found)), reserved_selectors
)


@st.composite
def address_peers(draw: st.DrawFn) -> AddressPeer:
    prefix = draw(st.sampled_from(NETWORKS))
    inner = [each for each in NETWORKS if each.version == prefix.version]
    return AddressPeer(prefix, tuple(draw(st.lists(st.sampled_from(inner), max_size=2))), draw(st.sampled_from(tuple(Scope))))


@st.composite
def ports(draw: st.DrawFn) -> Ports:
    kind = draw(st.sampled_from(("one", "range", "all", "every", "type", "name")))
    protocol = draw(st.sampled_from((6, 6, 17, 132)))
    low, high = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    match kind:
        case "one":
            return Ports(protocol, low, low)
        case "range":
            return Ports(protocol, low, high)
        case "all":
            return Ports(draw(st.sampled_from(PROTOCOLS)), 0, 65535)
        case "every":
            return Ports(0, 0, 65535)
        case "type":
            icmp_type = draw(st.sampled_from((0, 8, 128)))
            return Ports(draw(st.sampled_from((1, 58))), icmp_type, icmp_type)
        case _:
            return Ports(draw(st.sampled_from((0, 6, 17))), 0, 0, draw(st.sampled_from(NAMES)))


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    origin = Origin("CiliumNetworkPolicy", "ns", name, f"uid-{name}")
    rules = []
    tier = draw(st.sampled_from((Tier.NETWORK_POLICY, Tier.NETWORK_POLICY, Tier.NETWORK_POLICY, Tier.ADMIN, Tier.BASELINE)))
    ordered = tier is not Tier.NETWORK_POLICY
    priority = draw(st.sampled_from((0, 1, 1000))) if ordered else 0
    for index in range(draw(st.integers(0, 4))):
        action = draw(st.sampled_from(("allow", "allow", "deny", *(("pass",) if ordered else ()))))
        by_address = st.lists(address_peers(), min_size=1, max_size=3)
        mixed = st.lists(st.one_of(selectors, selectors, address_peers()), max_size=3)
        peers = draw(st.one_of(st.none(), mixed.map(tuple), mixed.map(tuple), by_address.map(tuple)))
        meant = draw(st.one_of(st.none(), st.none(), st.lists(ports(), max_size=3).map(tuple)))
        rules.append(
            Rule(
                Origin("CiliumNetworkPolicy", "ns", name, f"uid-{name}", f"spec.rules[{index}]"),
                draw(st.sampled_from(tuple(Direction))),
                action == "deny",
                peers,
                meant,
                draw(st.sampled_from(((), (), (), ("http",)))),
                tier,
                priority * RULES_OF_A_PRIORITY + index if ordered else 0,
                action == "pass",
            )
        )
    subject = draw(st.one_of(st.just(Selector()), st.just(Selector()), selectors))
    default_deny = (False, False) if ordered else (draw(st.booleans()), draw(st.booleans()))
    audit = draw(st.sampled_from((False, False, False, True)))
    return Policy(origin, subject, default_deny, tuple(rules), (), audit, draw(st.booleans()))


named_ports = st.dictionaries(
    st.sampled_from(NAMES), st.frozensets(st.tuples(st.sampled_from((6, 17)), st.sampled_from(PORTS)), min_size=1, max_size=2)
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    sets = draw(st.lists(label_sets, min_size=1, max_size=8, unique=True))
    identities = dict(RESERVED) | {Identity(256 + number): labels for number, labels in enumerate(sets)}
    names = {identity: draw(named_ports) for identity in identities if identity >= 256}
    endpoints = {f"pod-{number}": Endpoint(draw(label_sets), draw(named_ports)) for number in range(draw(st.integers(1, 3)))}
    endpoints["host"] = Endpoint(draw(label_sets), {}, host=True)
    found = tuple(draw(policies(f"p{number}")) for number in range(draw(st.integers(1, 6))))
    return World(found, identities, names, endpoints)


def probe(world: World, chance: Random) -> Probe:
    """One packet. Not drawn by hypothesis: a draw costs more than an answer, and many packets find more than few."""
    protocol = chance.choice((*PROTOCOLS, 6, 6, 17, 47))
    port = chance.choice((0, 8, 128, 3) if protocol in (1, 58) else PORTS)
    identity = chance.choice((*world.identities, Identity(9999)))
    # The host's own stack is known by the hook, never by an address that somebody could send from.
    address = None if identity == HOST else chance.choice((None, *ADDRESSES))
    return Probe(chance.choice(tuple(Direction)), identity, address, chance.random() < 0.5, protocol, port)
