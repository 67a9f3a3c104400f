"""Small clusters with policies of every kind, as people write them: YAML's dictionaries, and all of them such that the API server
takes them. Few names and numbers, so that what they say meets.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

from hypothesis import strategies as st
from tests.properties.meaning import ACCOUNT, CLUSTER, LOCAL, NAMESPACE, NAMESPACE_LABELS, Cluster, End, Label, Packet, Raw

SPACES = ("shop", "bank")
_OFTEN = ("shop", "shop", "shop", "bank")
ACCOUNTS, FIXED = ("default", "robot"), "store"
APPS, TIERS, TEAMS, ROLES = ("web", "api"), ("front", "back"), ("red", "green"), ("edge", "core")
NETWORKS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/24", "192.168.7.0/24", "8.0.0.0/5", "8.8.8.0/24", "8.8.8.8/32", "::/0", "fd00::/8",
            "fd00:1::/64", "2001:db8::/32", "2001:db8::1/128")  # fmt: skip
ROUTER = ("10.1.255.1", "fd00:1:ff::1")  # another node's
OUTSIDE = ("8.8.8.8", "8.8.8.9", "9.9.9.9", "1.1.1.1", "2001:db8::1", "2001:db8::2", "2a00::1")
# As people write them, with bits beside the prefix.
WRITTEN = (*NETWORKS, "8.8.8.77/24", "10.1.0.77/24", "2001:db8::7/32")
PORTS = (1, 22, 53, 67, 68, 79, 80, 80, 80, 80, 80, 81, 443, 546, 2379, 6443, 8080, 8080, 8080, 8080, 8472, 10250, 65535)
TEXTS = ("0", "00", "80", "80", "80", "0120", "8080", "8080", "22", "65535", "http", "HTTP", "dns")
NAMES = ("http", "dns")
LIFELINES = ((), ("ssh",), ("ssh", "etcd"), ("apiserver",), ("kubelet", "tunnel"), ("udp/53-79",), ("dhcp",))
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


def pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def listed(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Mostly of some; an empty one is another thing than an absent one."""
    return st.one_of(*[st.lists(strategy, min_size=1, max_size=3)] * 7, st.just([]))


def given(**fields: Any) -> dict[str, Any]:
    """Without those that are None: absent and empty are two things."""
    return {key.rstrip("_"): value for key, value in fields.items() if value is not None}


# -- selectors ---------------------------------------------------------------------------------------------------------------

_VALUES = {"app": APPS, "tier": TIERS, "team": TEAMS, "role": ROLES, NAMESPACE: SPACES, CLUSTER: ("blue", "red"), ACCOUNT: ACCOUNTS}


@st.composite
def selectors(draw: st.DrawFn, keys: Sequence[str]) -> dict[str, Any]:
    """Of keys that may have a source; the last word of a key says what values it has."""
    labels, expressions = {}, []
    for key in draw(pick((), (), *((key,) for key in keys), *((key,) for key in keys), keys[:2], keys[-2:])):
        values = _VALUES.get(key.rpartition(":")[2].removeprefix(NAMESPACE_LABELS), ("",))
        operator = draw(pick("is", "is", "is", "In", "NotIn", "Exists", "DoesNotExist"))
        if operator == "is":
            labels[key] = draw(st.sampled_from(values))
        elif operator in ("In", "NotIn"):
            found = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))
            expressions.append({"key": key, "operator": operator, "values": found})
        else:
            expressions.append({"key": key, "operator": operator})
    return given(matchLabels=labels or None, matchExpressions=expressions or None)


plain = selectors(("app", "tier"))
of_spaces = selectors(("team",))
of_nodes = selectors(("role", "role", "node:role", "k8s:role"))
_OF_PODS = ("app", "k8s:app", "any:tier", "tier", "app", "node:role")
_OF_SPACES = (f"k8s:{NAMESPACE}", NAMESPACE, f"k8s:{NAMESPACE_LABELS}team", f"{NAMESPACE_LABELS}team")
subjects = selectors((*_OF_PODS, *_OF_SPACES, f"k8s:{ACCOUNT}"))
subjects_anywhere = selectors((*_OF_PODS, *_OF_SPACES, f"k8s:{ACCOUNT}", *["reserved:init"] * 4, f"reserved:{FIXED}"))
_RESERVED_NAMES = (*LOCAL, "world", "world-ipv4", "world-ipv6", *["kube-apiserver"] * 3, FIXED)
_RESERVED = (*(f"reserved:{name}" for name in _RESERVED_NAMES), "$host", "reserved.world")
peers = st.one_of(
    selectors(_OF_PODS),
    selectors((*_OF_PODS, *_OF_SPACES, f"k8s:{CLUSTER}", f"k8s:{ACCOUNT}")),
    selectors(("app", *_RESERVED)),
)

# -- cilium.io ---------------------------------------------------------------------------------------------------------------


@st.composite
def excepts(draw: st.DrawFn, cidr: str) -> list[str] | None:
    whole = ip_network(cidr, strict=False)
    networks = {text: ip_network(text, strict=False) for text in WRITTEN}
    inner = [text for text, held in networks.items() if held.version == whole.version and held.subnet_of(whole)]  # type: ignore[arg-type]
    found: list[str] | None = draw(maybe(st.lists(st.sampled_from(inner), max_size=2, unique=True)))
    return found


@st.composite
def cidr_rules(draw: st.DrawFn) -> dict[str, Any]:
    if draw(pick(False, False, True)):
        return given(cidrGroupRef=draw(pick("office", "cloud", "missing")), except_=draw(maybe(st.just(["8.8.8.8/32"]))))
    cidr = draw(st.sampled_from(WRITTEN))
    return given(cidr=cidr, except_=draw(excepts(cidr)))


ENTITIES = ("all", "world", "host", "remote-node", "cluster", "init", "health", "unmanaged", "ingress", "kube-apiserver", "none")
SERVICES = (("shop", "db"), ("bank", "db"), ("shop", "missing"))


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    namespace, name = draw(st.sampled_from(SERVICES))
    space = draw(maybe(st.just(namespace)))
    named = {"k8sService": given(serviceName=name, namespace=space)}
    selected = {"k8sServiceSelector": given(selector=draw(selectors(("app", "k8s:app", "any:app"))), namespace=space)}
    return draw(pick(named, named, selected, selected, {**named, **selected}, {}))


@st.composite
def port_rules(draw: st.DrawFn, egress: bool, deny: bool) -> dict[str, Any]:
    if not deny and draw(pick(False, False, True)):
        port = given(port=draw(pick("80", "80", "8080", "http")), endPort=draw(pick(None, None, 8080)), protocol="TCP")
        restricting: list[dict[str, Any]] = [
            *[{"rules": {"http": [{"method": "GET"}]}}] * 3,
            {"serverNames": ["a.example"]},
            {"rules": {"http": []}},
            {"rules": {"kafka": [{"role": "produce"}]}},
            {"rules": {"l7proto": "other"}},
            {"terminatingTLS": {"secret": {"name": "cert"}}},
            {"originatingTLS": {"secret": {"name": "cert"}}, "rules": {"http": [{}]}},
        ]
        if egress:
            restricting.append({"rules": {"dns": [{"matchPattern": "*"}]}})
            restricting.append({"listener": {"envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "a"}, "name": "b"}})
        found = draw(st.sampled_from(restricting))
        if "dns" in found.get("rules", {}):  # takes no range, and need not be of TCP
            port = draw(pick({"port": "53", "protocol": "UDP"}, {"port": "53"}, {"port": "dns", "protocol": "TCP"}))
        return {"ports": [port], **found}
    return given(ports=draw(st.one_of(st.lists(transport_ports(), min_size=1, max_size=3), st.just([]), st.none())))


@st.composite
def transport_ports(draw: st.DrawFn) -> dict[str, Any]:
    text, protocol = draw(st.sampled_from(TEXTS)), draw(pick(None, "TCP", "TCP", "UDP", "SCTP", "ANY", "tcp"))
    end = draw(pick(None, None, 0, 70, 81, 8080, 65535))
    return given(port=text, protocol=protocol, endPort=end)


types = st.one_of(
    st.builds(given, family=pick(None, "IPv4"), type=pick(0, 8, 3, "8", "EchoRequest", "EchoReply", "Echo")),
    st.builds(given, family=pick("IPv6"), type=pick(128, 129, 8, "EchoRequest")),
)
icmps = listed(st.builds(given, fields=st.one_of(st.lists(types, min_size=1, max_size=3), st.just([]), st.none())))


@st.composite
def elements(draw: st.DrawFn, egress: bool, deny: bool) -> dict[str, Any]:
    side = "to" if egress else "from"
    element: dict[str, Any] = {}
    sorts: dict[str, st.SearchStrategy[Any]] = {
        "Endpoints": peers,
        "CIDR": st.one_of(st.sampled_from(WRITTEN), st.sampled_from(OUTSIDE)),
        "CIDRSet": cidr_rules(),
        "Entities": st.sampled_from(ENTITIES),
        "Nodes": of_nodes,
        "Groups": st.just({"aws": {"securityGroupsNames": ["a"]}}),
    }
    if egress:
        sorts["Services"] = services()
    if egress and not deny:
        sorts["FQDNs"] = st.just({"matchName": "a.example"})
    often = ("Endpoints", "Endpoints", "Endpoints", "CIDRSet", "Entities", "none", "none")
    sort = draw(st.sampled_from((*sorts, *often)))
    if sort != "none":
        element[f"{side}{sort}"] = draw(listed(sorts[sort]))
    if draw(pick(*[False] * 4, True)):
        element[f"{side}Requires"] = draw(st.lists(peers, max_size=2))
    match draw(pick("no", "icmps")) if sort == "Services" else draw(pick("no", "ports", "ports", "icmps")):
        case "ports":
            element["toPorts"] = draw(listed(port_rules(egress, deny)))
        case "icmps":
            element["icmps"] = draw(icmps)
    if not deny and draw(pick(*[False] * 9, True)):
        element["authentication"] = {"mode": draw(pick("required", "disabled", "test-always-fail"))}
    return element


SECTIONS = {"ingress": (False, False), "egress": (True, False), "ingressDeny": (False, True), "egressDeny": (True, True)}


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    allows = ("ingress", "egress")
    denies = ("ingressDeny", "egressDeny")
    names = draw(
        pick(
            allows,
            allows[:1],
            allows[1:],
            denies,
            denies[:1],
            denies[1:],
            ("ingress", "ingressDeny"),
            ("egress", "egressDeny"),
            tuple(SECTIONS),
        )
    )
    found = {name: draw(listed(elements(*SECTIONS[name]))) for name in names}
    for name in filter(allows.__contains__, names):
        if draw(pick(*[False] * 4, True)):
            found[name].append(draw(restricted("to" if name == "egress" else "from")))
        found[name] += [draw(beside(element)) for element in found[name] if _restricting(element)]
    return found


def _restricting(element: Raw) -> bool:
    return "authentication" in element or any(rule.keys() - {"ports"} for rule in element.get("toPorts", ()))


@st.composite
def restricted(draw: st.DrawFn, side: str) -> dict[str, Any]:
    """An element whom many packets are of, so that what closes and what opens meets often enough."""
    wide: tuple[tuple[str, list[Any]], ...] = (
        ("Endpoints", [{}]),
        ("Endpoints", [{}]),
        ("Entities", ["all"]),
        ("Entities", ["world", "cluster"]),
        ("CIDR", ["0.0.0.0/0"]),
        ("", []),
    )
    sort, peers = draw(pick(*wide))
    found: dict[str, Any] = {f"{side}{sort}": peers} if sort else {}
    ports = [{"port": each, "protocol": "TCP"} for each in draw(pick(("80",), ("8080",), ("80", "8080")))]
    more = draw(pick({"rules": {"http": [{}]}}, {"rules": {"http": [{}]}}, {"serverNames": ["a.example"]}, {}))
    found["toPorts"] = [{"ports": ports, **more}]
    return found if more else found | {"authentication": {"mode": "required"}}


@st.composite
def beside(draw: st.DrawFn, element: Raw) -> dict[str, Any]:
    """An element without what restricts that one, for the same peers or for everybody, at the same ports or at all."""
    same, ports = draw(pick(True, True, True, False)), draw(pick(True, True, True, False))
    found = {key: value for key, value in element.items() if same and key not in ("toPorts", "authentication")}
    if "toPorts" in element and (ports or not found):
        found["toPorts"] = [given(ports=rule.get("ports")) for rule in element["toPorts"]]
    return found


default_deny = maybe(st.builds(given, ingress=pick(None, True, False), egress=pick(None, True, False)))


@st.composite
def specs(draw: st.DrawFn, clusterwide: bool) -> dict[str, Any]:
    spec = draw(sections())
    if clusterwide and draw(st.booleans()):
        spec["nodeSelector"] = draw(of_nodes)
        for section in ("ingress", "egress"):
            for element in spec.get(section, ()):  # a policy of nodes has no layer 7
                element["toPorts"] = [given(ports=rule.get("ports")) for rule in element.get("toPorts", ())] or []
                if not element["toPorts"]:
                    del element["toPorts"]
    else:
        spec["endpointSelector"] = draw(subjects_anywhere if clusterwide else subjects)
    return given(**spec, enableDefaultDeny=draw(default_deny))


@st.composite
def cilium(draw: st.DrawFn, name: str) -> dict[str, Any]:
    clusterwide = draw(st.booleans())
    kind = "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy"
    held: dict[str, Any] = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": draw(metadata(name, not clusterwide))}
    shape = draw(pick("spec", "spec", "spec", "specs", "both"))
    if shape != "specs":
        held["spec"] = draw(specs(clusterwide))
    if shape != "spec":
        held["specs"] = draw(st.lists(specs(clusterwide), min_size=1, max_size=2))
    return held


@st.composite
def metadata(draw: st.DrawFn, name: str, namespaced: bool) -> dict[str, Any]:
    annotations = given(**{"pilus.io/mode": draw(pick(None, None, "", "audit", "audit", "enforce", "sometimes"))})
    if not namespaced and (cut := draw(pick(None, None, "ssh", "all", "etcd", "kubelet, udp/53-79"))):
        annotations["pilus.io/cut-lifelines"] = cut
    return given(
        name=name,
        uid=f"uid-{name}",
        namespace=draw(st.sampled_from(_OFTEN)) if namespaced else None,
        annotations=annotations or None,
    )


# -- NetworkPolicy -----------------------------------------------------------------------------------------------------------


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    cidr = draw(st.sampled_from(WRITTEN))
    whole, excepted = ip_network(cidr, strict=False), draw(excepts(cidr))
    # An API server refuses an exception that is its whole block.
    parts = None if excepted is None else [text for text in excepted if ip_network(text, strict=False) != whole]
    return {"ipBlock": given(cidr=cidr, except_=parts)}


pod_peers = st.one_of(
    st.builds(given, podSelector=plain),
    st.builds(given, namespaceSelector=of_spaces),
    st.builds(given, namespaceSelector=of_spaces, podSelector=plain),
    blocks(),
)


@st.composite
def kubernetes_ports(draw: st.DrawFn) -> dict[str, Any]:
    port = draw(pick(None, 1, 80, 443, 8080, "http", "dns"))
    end = draw(pick(None, None, port, 65535)) if isinstance(port, int) else None
    return given(protocol=draw(pick(None, "TCP", "UDP", "SCTP")), port=port, endPort=end)


def kubernetes_rules(side: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(given, **{side: st.one_of(listed(pod_peers), st.none()), "ports": maybe(listed(kubernetes_ports()))})


@st.composite
def kubernetes(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kinds = maybe(st.lists(pick("Ingress", "Egress"), max_size=2, unique=True))
    spec = given(
        podSelector=draw(plain),
        policyTypes=draw(kinds),
        ingress=draw(st.one_of(listed(kubernetes_rules("from_")), listed(kubernetes_rules("from_")), st.none())),
        egress=draw(st.one_of(listed(kubernetes_rules("to")), st.none())),
    )
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": draw(metadata(name, True)), "spec": spec}


# -- administrators' ---------------------------------------------------------------------------------------------------------

admin_pods = st.one_of(
    st.builds(given, namespaces=of_spaces),
    st.builds(lambda among, pods: {"pods": {"namespaceSelector": among, "podSelector": pods}}, of_spaces, plain),
)
cluster_pods = st.one_of(admin_pods, st.builds(lambda pods: {"pods": {"podSelector": pods}}, plain))
_protocol = pick(None, *_PROTOCOLS)
admin_ports = st.one_of(
    st.builds(lambda protocol, port: {"portNumber": given(protocol=protocol, port=port)}, _protocol, pick(80, 443, 8080)),
    st.builds(lambda protocol, end: {"portRange": given(protocol=protocol, start=79, end=end)}, _protocol, pick(80, 443)),
    st.builds(given, namedPort=pick("http", "DNS")),
)
cluster_protocols = st.one_of(
    st.builds(lambda word, port: {word: given(destinationPort=port)}, pick("tcp", "udp", "sctp"),
              pick({"number": 80}, {"number": 443}, {"range": {"start": 79, "end": 443}}, {"range": {"start": 1, "end": 65535}})),
    st.builds(given, destinationNamedPort=pick("http", "dns")),
)  # fmt: skip


@st.composite
def admin_rules(draw: st.DrawFn, kind: str, egress: bool) -> dict[str, Any]:
    allow = "Accept" if kind == "ClusterNetworkPolicy" else "Allow"
    action = draw(pick(allow, "Deny") if kind.startswith("Baseline") else pick(allow, "Deny", "Pass"))
    pods = cluster_pods if kind == "ClusterNetworkPolicy" else admin_pods
    sorts = [pods, pods]
    if egress:
        sorts += [
            st.builds(given, nodes=selectors(("role",))),
            st.builds(given, networks=st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2)),
        ]
    if egress and action == allow and not kind.startswith("Baseline"):
        sorts.append(st.just({"domainNames": ["a.example"]}))
    found = draw(st.lists(st.one_of(sorts), min_size=1, max_size=2)) + draw(pruned())
    rule = given(name=draw(pick(None, "n")), action=action, **{"to" if egress else "from": found})
    if kind == "ClusterNetworkPolicy":
        held = draw(maybe(st.lists(cluster_protocols, min_size=1, max_size=2)))
        return rule | given(protocols=held and held + draw(pruned({"tcp": {}}, {"udp": {"destinationPort": {}}})))
    held = draw(maybe(st.lists(admin_ports, max_size=2)))
    return rule | given(ports=held and held + draw(pruned()))


def pruned(*held: Raw) -> st.SearchStrategy[list[Raw]]:
    """Seldom what a definition leaves of a part that it doesn't know."""
    return pick(*[[]] * 12, *([each] for each in ({}, *held)))


@st.composite
def admin(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kind = draw(pick("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"))
    version = "v1beta1" if kind == "ClusterNetworkPolicy" else "v1alpha1"
    spec: dict[str, Any] = {"subject": draw(cluster_pods if kind == "ClusterNetworkPolicy" else admin_pods)}
    if not kind.startswith("Baseline"):
        spec["priority"] = draw(pick(0, 1, 1000))
    if kind == "ClusterNetworkPolicy":
        spec["tier"] = draw(pick("Admin", "Baseline"))
    for section in draw(pick(("ingress", "egress"), ("ingress", "egress"), ("ingress",), ("egress",))):
        spec[section] = draw(listed(admin_rules(kind, section == "egress")))
    said = draw(metadata(name, False))
    return {"apiVersion": f"policy.networking.k8s.io/{version}", "kind": kind, "metadata": said, "spec": spec}


# -- clusters ----------------------------------------------------------------------------------------------------------------


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "enable_policy": draw(pick(*["default"] * 8, "always", "never")),
        "policy_audit_mode": draw(pick(False, False, False, False, True)),
        "enable_node_selector_labels": draw(st.booleans()),
        "enable_host_firewall": draw(pick(None, None, True, False)),
        "host_firewall_lifelines": draw(st.sampled_from(LIFELINES)),
        "policy_cidr_match_mode": draw(pick((), ("nodes",))),
    }


def pod_labels(app: str, tier: str | None, namespace: str, spaces: Raw, cluster: str, account: str) -> frozenset[Label]:
    found = {("k8s", "app", app), ("k8s", NAMESPACE, namespace), ("k8s", CLUSTER, cluster), ("k8s", ACCOUNT, account)}
    if tier:
        found.add(("k8s", "tier", tier))
    return frozenset(found | {("k8s", NAMESPACE_LABELS + key, value) for key, value in spaces[namespace][0].items()})


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    said = draw(settings())
    spaces = {
        name: (given(team=draw(maybe(st.sampled_from(TEAMS)))), draw(pick("", "", "", "audit", "enforce", "sometimes")))
        for name in SPACES
    }
    named = st.dictionaries(
        st.sampled_from(NAMES), st.frozensets(st.tuples(pick(6, 6, 17, 132), st.sampled_from(PORTS)), min_size=1, max_size=2)
    )
    governed: dict[str, End] = {}
    numbers: dict[frozenset[Label], int] = {}
    pods = []
    for index in range(draw(st.integers(2, 5))):
        abroad = index > 1 and draw(pick(False, False, True))
        labels = pod_labels(
            draw(st.sampled_from(APPS)),
            draw(maybe(st.sampled_from(TIERS))),
            draw(st.sampled_from(_OFTEN)),
            spaces,
            "red" if abroad else "blue",
            draw(pick(*ACCOUNTS[:1] * 3, *ACCOUNTS)),
        )
        addresses = (ip_address(f"10.1.0.{index + 1}"), ip_address(f"fd00:1::{index + 1}"))
        pods.append(End(numbers.setdefault(labels, 256 + len(numbers)), labels, addresses, draw(named)))
        if index < 2:
            governed[f"pod-{index}"] = pods[-1]
    # What pods of an identity call their ports is known of all of them together.
    for index, pod in enumerate(pods):
        like = [each.names for each in pods if each.identity == pod.identity]
        names = {name: frozenset().union(*(each.get(name, frozenset()) for each in like)) for each in like for name in each}
        pods[index] = End(pod.identity, pod.labels, pod.addresses, names)
    governed["init"] = End(5, frozenset({("reserved", "init", "")}))
    # A number that the administrator has given to a name.
    governed["fixed"] = End(
        128, frozenset({("reserved", FIXED, "")}), (ip_address("10.1.0.90"), ip_address("fd00:1::90")), draw(named)
    )
    pods.append(governed["fixed"])
    return Cluster(
        settings=said,
        namespaces=spaces,
        groups=draw(st.dictionaries(pick("office", "cloud"), st.lists(st.sampled_from(NETWORKS), max_size=2))),
        services=draw(
            st.dictionaries(
                st.sampled_from(SERVICES[:2]),
                st.tuples(st.builds(given, app=pick(None, *APPS)), st.lists(st.sampled_from(OUTSIDE), max_size=2, unique=True)),
            )
        ),
        api_servers=draw(pick((), OUTSIDE[:1], OUTSIDE[3:4], OUTSIDE[4:5], (OUTSIDE[1], OUTSIDE[6], "192.168.7.2"))),
        ends=(*pods, *draw(others(said, governed))),
        governed=governed,
        policies=draw(policies()),
    )


@st.composite
def others(draw: st.DrawFn, said: Raw, governed: dict[str, End]) -> list[End]:
    """Who is no pod: this node, others, the outside, and identities that stand for something. Adds this node to `governed`."""
    role = {("node", "role", draw(st.sampled_from(ROLES)))}
    runs = {("reserved", "kube-apiserver", "")} if draw(pick(False, False, True)) else set()
    here = frozenset({("reserved", "host", "")} | runs)
    governed["host"] = End(1, here | role)
    found = [End(1, here | role if said["enable_node_selector_labels"] else here)]
    for index, runs_api in enumerate((False, True)):
        labels = {("reserved", "remote-node", "")} | ({("reserved", "kube-apiserver", "")} if runs_api else set())
        number = 7 if runs_api else 6
        if said["enable_node_selector_labels"] and draw(pick(True, True, False)):
            labels.add(("node", "role", draw(st.sampled_from(ROLES))))
            number = 0x02000001 + index
        address = (ip_address(f"192.168.7.{index + 1}"), ip_address(f"fd00:7::{index + 1}"))
        found.append(End(number, frozenset(labels), address))
    for outside in map(ip_address, OUTSIDE):
        family = ("reserved", f"world-ipv{outside.version}", "")
        found.append(End(2, frozenset({("reserved", "world", ""), family}), (outside,), outside=True))
    for number, name in ((3, "unmanaged"), (4, "health"), (5, "init"), (8, "ingress")):
        found.append(End(number, frozenset({("reserved", name, "")}), (ip_address("10.1.0.99"), ip_address("fd00:1::99"))))
    found.append(End(9999, None, (ip_address("10.1.0.100"), ip_address("fd00:1::100"))))
    return found


@st.composite
def policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index in range(draw(pick(1, 2, 3, 4, 5))):
        kind = draw(pick(cilium, cilium, cilium, kubernetes, kubernetes, admin))
        policy = draw(kind(f"p{index}"))
        if policy["kind"] == "BaselineAdminNetworkPolicy":
            policy["metadata"]["name"] = "default"
            if any(each["kind"] == policy["kind"] for each in found):
                continue
        found.append(policy)
    return found


def packet(cluster: Cluster, chance: Random) -> tuple[str, Packet]:
    """One, and whose policy is asked. Not drawn by hypothesis: a draw costs more than an answer."""
    me = chance.choice(("pod-0", "pod-0", "pod-0", "pod-1", "pod-1", "pod-1", "host", "host", "init", "fixed"))
    pods = [end for end in cluster.ends if end.identity >= 128 and end.labels is not None]
    match chance.randrange(12):
        case 0 | 1 | 2 | 3 | 4 | 5 | 6:
            end = chance.choice(cluster.ends)
        case 7:  # who is met seldom, and treated otherwise than those like him
            servers = [end for end in cluster.ends if end.outside and str(end.addresses[0]) in cluster.api_servers]
            end = chance.choice(servers or pods)
        case _:
            end = chance.choice(pods)
    protocol = chance.choice((6, 6, 6, 6, 17, 17, 132, 1, 58, 47))
    port = chance.choice((0, 3, 8, 128, 129)) if protocol in (1, 58) else chance.choice(PORTS)
    direction = chance.choice((0, 1))
    if me == "host" and end.identity == 1:
        end = pods[0]
    address = chance.choice(end.addresses) if end.addresses else None
    node = ("reserved", "remote-node", "") in (end.labels or ())
    outside = end.outside or (node and cluster.settings["policy_cidr_match_mode"] == ("nodes",))
    return me, Packet(direction, end, address, outside, protocol, port)
