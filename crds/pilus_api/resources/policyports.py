"""The ports part of a policy element: ports, ICMP types, and what layer 7 adds to them."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema

from pilus_api.errors import InvalidError
from pilus_api.expressions import Expression
from pilus_api.resources.model import Model, Refusal, refused_unless

MAX_PORTS = 40
MAX_PORT_RULES = 10
MAX_L7_RULES = 20

_NUMBER = (
    "[0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
    "|0[0-7]{1,5}|01[0-7]{5}"  # a leading zero means octal
)
_SERVICE_NAME = "([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*"

Port = Annotated[str, Field(min_length=1, max_length=15, pattern=f"^({_NUMBER}|{_SERVICE_NAME})$")]
Protocol = Annotated[
    str, Field(max_length=4, pattern="^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp]|[Aa][Nn][Yy])$")
]  # fmt: skip

ICMP_TYPES: Mapping[str, Mapping[str, int]] = {
    "IPv4": {
        "EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8, "RouterAdvertisement": 9,
        "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13, "TimestampReply": 14, "Photuris": 40,
        "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43,
    },
    "IPv6": {
        "DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128,
        "EchoReply": 129, "MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132,
        "RouterSolicitation": 133, "RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136,
        "RedirectMessage": 137, "RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
    },
}  # fmt: skip

KAFKA_KEYS = (
    "produce", "fetch", "offsets", "metadata", "leaderandisr", "stopreplica", "updatemetadata", "controlledshutdown",
    "offsetcommit", "offsetfetch", "findcoordinator", "joingroup", "heartbeat", "leavegroup", "syncgroup", "describegroups",
    "listgroups", "saslhandshake", "apiversions", "createtopics", "deletetopics", "deleterecords", "initproducerid",
    "offsetforleaderepoch", "addpartitionstotxn", "addoffsetstotxn", "endtxn", "writetxnmarkers", "txnoffsetcommit",
    "describeacls", "createacls", "deleteacls", "describeconfigs", "alterconfigs",
)  # fmt: skip


def _any_case(words: Sequence[str]) -> str:
    """A pattern for the words in any case; written out, for `(?i)` is not in every dialect."""
    return "^(" + "|".join("".join(f"[{c.upper()}{c}]" for c in word) for word in words) + ")$"


def _compiles(text: str) -> bool:
    try:
        Expression(text, "")
    except InvalidError:
        return False
    return True


# Matching fails, and thus refuses, if the pattern does not compile; what it answers is no matter. Beside `||` the failure
# would be lost.
_COMPILES_CEL = "''.matches(self) ? true : true"
HttpPath = Annotated[
    str, Field(max_length=200), Refusal(_COMPILES_CEL, "path must be a regular expression of RE2's syntax", _compiles)
]  # fmt: skip
HttpMethod = Annotated[
    str, Field(max_length=64), Refusal(_COMPILES_CEL, "method must be a regular expression of RE2's syntax", _compiles)
]  # fmt: skip

Name = Annotated[str, Field(min_length=1, max_length=253)]
DNS_NAME = "^([-a-zA-Z0-9_]+[.]?)+$"
DNS_PATTERN = "^([-a-zA-Z0-9_*]+[.]?)+$"


class FqdnSelector(Model):
    """A DNS name, or a pattern of names."""

    match_name: Annotated[str, Field(max_length=255, pattern=DNS_NAME)] | None = None
    match_pattern: Annotated[str, Field(max_length=255, pattern=DNS_PATTERN)] | None = None

    @refused_unless("has(self.matchName) != has(self.matchPattern)", "give exactly one of matchName and matchPattern")
    def one(self) -> bool:
        return (self.match_name is None) != (self.match_pattern is None)


class SecretName(Model):
    name: Name
    namespace: Annotated[str, Field(max_length=253)] | None = None


class HeaderMatch(Model):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    value: Annotated[str, Field(max_length=4096)] | None = None
    secret: SecretName | None = None
    mismatch: Literal["LOG", "ADD", "DELETE", "REPLACE"] | None = None


class HttpRule(Model):
    path: HttpPath | None = None
    method: HttpMethod | None = None
    host: Annotated[str, Field(max_length=512)] | None = None
    headers: Annotated[Sequence[Annotated[str, Field(max_length=4096)]], Field(max_length=100)] | None = None
    header_matches: Annotated[Sequence[HeaderMatch], Field(max_length=100)] | None = None


class KafkaRule(Model):
    role: Annotated[str, Field(max_length=7, pattern=_any_case(("produce", "consume")))] | None = None
    api_key: Annotated[str, Field(max_length=20, pattern=_any_case(KAFKA_KEYS))] | None = None
    api_version: Annotated[
        str, Field(max_length=5, pattern="^([0-9]{1,4}|[0-2][0-9]{4}|3[01][0-9]{3}|32[0-6][0-9]{2}|327[0-5][0-9]|3276[0-7])$")
    ] | None = None  # fmt: skip
    client_id: Annotated[str, Field(max_length=512)] | None = Field(default=None, alias="clientID")
    topic: Annotated[str, Field(max_length=255, pattern=r"^[-a-zA-Z0-9._]+$")] | None = None

    @refused_unless("!has(self.role) || !has(self.apiKey)", "role and apiKey exclude each other")
    def role_or_key(self) -> bool:
        return self.role is None or self.api_key is None


class L7Rules(Model):
    """Of one protocol. An empty list of one says nothing."""

    http: Annotated[Sequence[HttpRule], Field(max_length=MAX_L7_RULES)] | None = None
    kafka: Annotated[Sequence[KafkaRule], Field(max_length=MAX_L7_RULES)] | None = None
    dns: Annotated[Sequence[FqdnSelector], Field(max_length=MAX_L7_RULES)] | None = None
    l7proto: Annotated[str, Field(max_length=63)] | None = Field(default=None, alias="l7proto")
    l7: Annotated[
        Sequence[Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=20)]], Field(max_length=MAX_L7_RULES)
    ] | None = None  # fmt: skip

    @refused_unless(
        "[has(self.http), has(self.kafka), has(self.dns), has(self.l7proto)].filter(given, given).size() <= 1",
        "give at most one of http, kafka, dns and l7proto",
    )
    def one_kind(self) -> bool:
        return sum(held is not None for held in (self.http, self.kafka, self.dns, self.l7proto)) <= 1

    @refused_unless("!has(self.l7) || has(self.l7proto)", "l7 needs l7proto")
    def named(self) -> bool:
        return self.l7 is None or self.l7proto is not None

    def needs_tcp(self) -> str:
        """The field that does, or ""."""
        return "http" if self.http else "kafka" if self.kafka else "l7proto" if self.l7proto else ""


class PortProtocol(Model):
    port: Port
    end_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    protocol: Protocol | None = None


class TlsContext(Model):
    secret: SecretName
    trusted_ca: Annotated[str, Field(max_length=253)] | None = Field(default=None, alias="trustedCA")
    certificate: Annotated[str, Field(max_length=253)] | None = None
    private_key: Annotated[str, Field(max_length=253)] | None = None


class EnvoyConfig(Model):
    kind: Literal["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"] | None = None
    name: Name


class Listener(Model):
    envoy_config: EnvoyConfig
    name: Name
    priority: Annotated[int, Field(ge=1, le=100)] | None = None


class PortDenyRule(Model):
    """Ports alone; no ports means nothing."""

    ports: Annotated[Sequence[PortProtocol], Field(max_length=MAX_PORTS)] | None = None


_L7_BUT_DNS = (
    "(has(self.rules.http) && self.rules.http.size() > 0 || has(self.rules.kafka) && self.rules.kafka.size() > 0"
    " || has(self.rules.l7proto) && self.rules.l7proto != '')"
)
_DNS = "(has(self.rules.dns) && self.rules.dns.size() > 0)"


class PortRule(PortDenyRule):
    terminating_tls: Annotated[TlsContext | None, Field(alias="terminatingTLS")] = None
    originating_tls: Annotated[TlsContext | None, Field(alias="originatingTLS")] = None
    server_names: Annotated[
        Sequence[Annotated[str, Field(min_length=1, max_length=255)]], Field(max_length=100)
    ] | None = None  # fmt: skip
    listener: Listener | None = None
    rules: L7Rules | None = None

    def l7(self) -> str:
        """The kind of rules that stand here, or ""."""
        if self.rules is None:
            return ""
        return self.rules.needs_tcp() or ("dns" if self.rules.dns else "")

    @refused_unless(
        f"!has(self.rules) || !{_L7_BUT_DNS} || !has(self.ports)"
        " || self.ports.all(p, has(p.protocol) && p.protocol.lowerAscii() == 'tcp')",
        "HTTP, Kafka and l7proto rules need protocol TCP, spelt out at each port",
    )
    def l7_over_tcp(self) -> bool:
        if self.rules is None or not self.rules.needs_tcp():
            return True
        return all(port.protocol is not None and port.protocol.upper() == "TCP" for port in self.ports or ())

    @refused_unless(
        f"!has(self.rules) || !({_L7_BUT_DNS} || {_DNS}) || !has(self.ports) || self.ports.all(p, !p.port.matches('^0+$'))",
        "layer 7 rules need a port other than 0",
    )
    def l7_at_a_port(self) -> bool:
        return not self.l7() or all(re.fullmatch("0+", port.port) is None for port in self.ports or ())

    @refused_unless(
        f"!has(self.rules) || !{_DNS} || has(self.ports) && self.ports.size() > 0", "DNS rules need a port, which is 53 as a rule"
    )
    def dns_at_a_port(self) -> bool:
        return self.l7() != "dns" or bool(self.ports)

    @refused_unless(
        f"!has(self.rules) || !{_DNS} || !has(self.ports)"
        " || self.ports.all(p, !has(p.endPort) || !p.port.matches('^[0-9]+$') || p.endPort <= int(p.port))",
        "DNS rules do not take a range of ports",
    )
    def dns_without_range(self) -> bool:
        return self.l7() != "dns" or all(
            port.end_port is None or not port.port.isdigit() or port.end_port <= int(port.port) for port in self.ports or ()
        )

    @refused_unless(
        f"!has(self.serverNames) || self.serverNames.size() == 0 || has(self.terminatingTLS) || !has(self.rules)"
        f" || !({_L7_BUT_DNS} || {_DNS})",
        "serverNames beside layer 7 rules need terminatingTLS",
    )
    def names_or_rules(self) -> bool:
        return not self.server_names or self.terminating_tls is not None or not self.l7()

    @refused_unless(
        f"!has(self.listener) || !has(self.rules) || !({_L7_BUT_DNS} || {_DNS})", "listener and layer 7 rules exclude each other"
    )
    def listener_or_rules(self) -> bool:
        return self.listener is None or not self.l7()


_TYPE_NUMBER = "[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]"
_ICMP_PATTERNS = {family: "^(" + "|".join((_TYPE_NUMBER, *sorted(names))) + ")$" for family, names in ICMP_TYPES.items()}


class IcmpField(Model):
    """A type by number, which may be a text, or, case-sensitively, by the name that it has in its family."""

    # In the schema, not in CEL, for the sake of CEL's cost budget.
    schema_extra: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"properties": {"family": {"enum": [family]}, "type": {"pattern": pattern}}}
            for family, pattern in _ICMP_PATTERNS.items()
        ]
    }

    family: Literal["IPv4", "IPv6"] = "IPv4"
    type: Annotated[
        int | str, WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "maximum": 255, "maxLength": 64})
    ]  # fmt: skip

    def number(self) -> int:
        """-1 where the type is no type of its family."""
        if isinstance(self.type, int):
            return self.type if 0 <= self.type <= 255 else -1
        if re.fullmatch(_TYPE_NUMBER, self.type):
            return int(self.type)
        return ICMP_TYPES[self.family].get(self.type, -1)

    @refused_unless("", "type must be 0 to 255, or the name of an ICMP type in its family (case counts)")
    def known(self) -> bool:
        return self.number() >= 0


class IcmpRule(Model):
    fields_: Annotated[Sequence[IcmpField], Field(max_length=40)] | None = Field(default=None, alias="fields")
