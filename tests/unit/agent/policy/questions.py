"""Questions put to compiled tables: who reaches whom, at which ports.

In: objects as they are written, and questions as lines of text. Out: the questions that the tables answer otherwise. Never asks the
rules. A question is asked at both ends: whether the one may send it, and whether the other takes it.

    shop/app=web -> bank/app=api tcp/80 udp/53    passes, at each of these ports
    shop/app=web -x 203.0.113.7                   is refused, whatever the protocol

Somebody is a pod, `namespace/label=value,...`: with `red:` before it in the cluster of that name, with `{label=value}` behind the
namespace if that has labels, with `@account` at the end; or `host`, `remote-node`, `kube-apiserver`, `health`, `init`, the first
two also with labels of their Node (`host/zone=a`); or an address, which is outside the cluster.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from pilus_agent.desired.policy.answers import Decision
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.explain import Explanation, explain
from pilus_agent.desired.policy.tables import Endpoint
from pilus_agent.desired.services import ServiceTable
from pilus_agent.facts import EndpointSlice, ServiceEndpoint
from pilus_agent.sources.services import service_of
from pilus_api.identities import HEALTH, HOST, INIT, KUBE_APISERVER, REMOTE_NODE, RESERVED, WORLD, Identity
from pilus_api.labels import SOURCE_NODE, Label, Labels, canonical, pod_labels
from pilus_api.policies import drafts_of, groups_of, resolve
from pilus_api.protocols import ICMP, ICMPV6, SCTP, TCP, UDP
from pilus_api.rules import ApiServers, Direction, GroupName, Network, Policy, Services

Address = IPv4Address | IPv6Address

PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmpv6": ICMPV6}
# Where a question names no ports. The highest and the lowest ones too: a range or a port 0 that is read wrongly shows there.
ANYTHING: Final = ("tcp/1", "tcp/80", "tcp/65535", "udp/53", "sctp/9", "icmp/0", "icmp/8", "icmpv6/128")

_ALIEN: Final = {4: "icmpv6", 6: "icmp"}
_RESERVED: Final = {"host": HOST, "remote-node": REMOTE_NODE, "kube-apiserver": KUBE_APISERVER, "health": HEALTH, "init": INIT}
_POD: Final = re.compile(r"(?:([\w-]+):)?([\w-]+)(?:\{(.*)\})?/([^@]*)(?:@(.+))?")
_SERVICE: Final = re.compile(r"([\w-]+)/([\w-]+)(?:\{(.*)\})?( selects)?((?: [0-9a-f.:]+)*)")


@dataclass(frozen=True)
class Case:
    """Questions, and what else is there than policies.

    `unenforced`: the fields that are named as not in force. `nodes`: the setting enable-node-selector-labels. `services`: lines
    `namespace/name{label=value} address ...`, with `selects` before the addresses for one that selects pods. `api_server`: the
    address of one outside the cluster. `beside`: files that documentation applies together with this one.
    """

    questions: str
    unenforced: tuple[str, ...] = ()
    cluster: str = "default"
    nodes: bool = False
    services: str = ""
    api_server: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Actor:
    """`endpoint`: what policies of this cluster govern there, if they do. `inside`: the address is a pod's or a node's."""

    name: str
    identity: Identity
    labels: Labels
    address: Address
    inside: bool = True
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Question:
    who: str
    whom: str
    protocol: str
    port: int
    passes: bool

    def __str__(self) -> str:
        return f"{self.who} {'->' if self.passes else '-x'} {self.whom} {self.protocol}/{self.port}"


def _pairs(text: str | None) -> dict[str, str]:
    found = (each.partition("=") for each in (text or "").split(",") if each)
    return {key: value for key, _, value in found}


def _outside(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def questions_of(text: str) -> list[Question]:
    """A line is a question for each of its ports."""
    found = []
    for line in _lines(text):
        who, arrow, whom, *ports = line.split()
        if arrow not in ("->", "-x"):
            raise ValueError(f"this is no question: {line}")
        # An address has no pings of the other family; a pod has both.
        alien = {_ALIEN[address.version] for address in (_outside(who), _outside(whom)) if address}
        for port in ports or ANYTHING:
            protocol, _, number = port.partition("/")
            if protocol not in alien:
                found.append(Question(who, whom, protocol, int(number), arrow == "->"))
            elif ports:
                raise ValueError(f"there is no such packet: {line}")
    return found


class Cast:
    """Everybody whom questions speak of. `cluster` is this one's name."""

    def __init__(self, names: Iterable[str], cluster: str, nodes: bool) -> None:
        self.actors = {name: self._actor(name, place, cluster) for place, name in enumerate(sorted(set(names)))}
        self.identities: dict[Identity, Labels] = dict(RESERVED)
        labelled = [name for name in self.actors if name.startswith("remote-node/")]
        if (labelled and not nodes) or (nodes and sum(actor.identity == HOST for actor in self.actors.values()) > 1):
            raise ValueError("other nodes have labels with the setting alone, and this node is one")
        for actor in self.actors.values():
            # Without the setting a node's labels are in nobody's identity, though policies govern it by them.
            if actor.identity not in RESERVED or nodes:
                self.identities[actor.identity] = actor.labels

    @staticmethod
    def _actor(name: str, place: int, cluster: str) -> Actor:
        if outside := _outside(name):
            return Actor(name, WORLD, RESERVED[WORLD], outside, inside=False)
        reserved, _, node = name.partition("/")
        address = ip_address(f"10.0.0.{place + 1}")
        if reserved in _RESERVED:
            identity = _RESERVED[reserved]
            labels = canonical((*RESERVED[identity], *(Label(SOURCE_NODE, *pair) for pair in _pairs(node).items())))
            if node and identity != HOST:  # a number of this node's own
                identity = Identity(2 << 24 | place + 1)
            governed = identity in (HOST, HEALTH, INIT)
            endpoint = Endpoint(labels, {}, host=identity == HOST) if governed else None
            return Actor(name, identity, labels, address, endpoint=endpoint)
        held = _POD.fullmatch(name)
        if held is None:
            raise ValueError(f"this is nobody: {name}")
        of, namespace, told, own, account = held.groups()
        labels = pod_labels(_pairs(own), namespace, _pairs(told), account or "", of or cluster)
        number = Identity((0x30000 if of else 0) + 256 + place)
        return Actor(name, number, labels, address, endpoint=None if of else Endpoint(labels, {}))


def _groups(wanted: Iterable[GroupName], case: Case) -> dict[GroupName, tuple[Network, ...]]:
    table = ServiceTable("n1")
    for line in _lines(case.services):
        held = _SERVICE.fullmatch(line)
        if held is None:
            raise ValueError(f"this is no Service: {line}")
        namespace, name, labels, selects, addresses = held.groups()
        raw = {"metadata": {"namespace": namespace, "name": name, "labels": _pairs(labels)}}
        table.put_service(f"{namespace}/{name}", service_of(raw | {"spec": {"selector": {"app": name} if selects else {}}}))
        behind = tuple(ServiceEndpoint(ip_address(each)) for each in addresses.split())
        table.put_slice(f"{namespace}/{name}-1", EndpointSlice(f"{namespace}/{name}", endpoints=behind))
    found: dict[GroupName, tuple[Network, ...]] = {ApiServers(): tuple(map(ip_network, filter(None, [case.api_server])))}
    for each in wanted:
        if isinstance(each, Services) and (members := table.meant(each)) is not None:
            found[each] = tuple(map(ip_network, members))
    return found


def policies_of_case(objects: Iterable[Mapping[str, Any]], case: Case) -> tuple[Policy, ...]:
    """What the objects mean together. Raises InvalidError."""
    drafts = [draft for held in objects for draft in drafts_of(held, cluster=case.cluster, nodes=case.nodes)]
    return resolve(drafts, _groups(groups_of(drafts), case))


def unenforced(policies: Iterable[Policy]) -> tuple[str, ...]:
    """The fields that are named as not in force."""
    found: list[str] = []
    for policy in policies:
        found += policy.unenforced
        found += (field for rule in policy.rules for field in rule.unenforced)
    return tuple(dict.fromkeys(found))


def wrong_answers(policies: Iterable[Policy], case: Case) -> list[str]:
    """Each with what decided it."""
    asked = questions_of(case.questions)
    cast = Cast((name for each in asked for name in (each.who, each.whom)), case.cluster, case.nodes)
    governed = {name: actor.endpoint for name, actor in cast.actors.items() if actor.endpoint}
    compiled = compile_policies(policies, cast.identities, governed)

    def judged(at: Actor, direction: Direction, other: Actor, question: Question) -> Explanation | None:
        """None: there is nothing to ask."""
        applied = compiled.endpoints.get(at.name)
        if applied is None or applied.policy is None:
            return None
        if not (applied.egress_enforced if direction else applied.ingress_enforced):
            return None
        protocol = PROTOCOLS[question.protocol]
        policy = compiled.policies[applied.policy]
        return explain(policy, direction, other.identity, other.address, other.inside, protocol, question.port)

    wrong = []
    for question in asked:
        who, whom = cast.actors[question.who], cast.actors[question.whom]
        found = [judged(who, Direction.EGRESS, whom, question), judged(whom, Direction.INGRESS, who, question)]
        passes = all(each is None or each.decision is Decision.ALLOW for each in found)
        if passes != question.passes:
            wrong.append(f"{question}: {'; '.join('open' if each is None else str(each) for each in found)}")
    return wrong
