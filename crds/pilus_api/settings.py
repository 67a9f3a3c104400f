"""Settings: the keys of the ConfigMap, in the names that Cilium's users know.

In: a flat YAML map, `key: value`, in which every value may be a string (a ConfigMap holds nothing else), or a folder with a file
for each key, as a mounted ConfigMap is. Out: one frozen model that operator, agent and observer share. A key that nobody reads is
an error: a misspelt one would change nothing, in silence.
"""

import difflib
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pilus_api.errors import InvalidError
from pilus_api.identities import fixed_identities
from pilus_api.lifelines import LIFELINES, is_lifeline
from pilus_api.lifelines import PATTERN as LIFELINE_PATTERN

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")


def seconds(value: object) -> object:
    """`15m`, `1h30m0s` and bare numbers of seconds as seconds. Raises ValueError."""
    if not isinstance(value, str):
        return value
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no duration; write it as 15m or 1h30m0s") from None


def _words(value: object) -> object:
    """Lists are written with spaces or commas between."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


# The text of a file, or of each file of a folder by its name.
Written = str | dict[str, str]

Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
NodeWords = Annotated[tuple[Literal["nodes"], ...], BeforeValidator(_words)]
Ipv4Pool = Annotated[tuple[IPv4Network, ...], BeforeValidator(_words)]
Ipv6Pool = Annotated[tuple[IPv6Network, ...], BeforeValidator(_words)]


def _port_range(value: object) -> object:
    """`61000-65535`, or with a comma between, as node-port-range has it."""
    return tuple(value.replace(",", "-").split("-")) if isinstance(value, str) else value


Port = Annotated[int, Field(ge=1024, le=65535)]
PortRange = Annotated[tuple[Port, Port], BeforeValidator(_port_range)]
_NODE_PORTS = (30000, 32767)
# NUMBER=NAME; what they may be together, identities.py says.
FIXED_IDENTITY = "^(12[89]|1[3-9][0-9]|2[0-4][0-9]|25[0-5])=[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
FixedIdentity = Annotated[str, Field(pattern=FIXED_IDENTITY)]
Lifeline = Annotated[str, Field(pattern=LIFELINE_PATTERN)]
Lifelines = Annotated[tuple[Lifeline, ...], BeforeValidator(_words)]
FixedIdentities = Annotated[tuple[FixedIdentity, ...], BeforeValidator(_words)]


class Settings(BaseModel):
    """One cluster's settings. Field `cluster_name` is the key `cluster-name`, and so on."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )

    # Who we are among clusters.
    cluster_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")] = "default"
    cluster_id: Annotated[int, Field(ge=0, le=255)] = 0

    # Identities.
    labels: Words = ()
    label_prefix_file: Annotated[str, Field(pattern=r"^(/.+)?$")] = ""  # its entries stand in place of those that are built in
    fixed_identity_mapping: FixedIdentities = ()  # such as 128=kv-store; a pod asks for it by the label io.cilium.fixed-identity
    identity_gc_interval: Seconds = 900.0
    identity_heartbeat_timeout: Seconds = 1800.0

    # Where the API server is, if the environment of a pod names an address that nobody serves before we do (a ClusterIP).
    k8s_api_server: Annotated[str, Field(pattern=r"^(https://[^/\s]+)?$")] = ""

    # How packets travel between nodes.
    routing_mode: Literal["tunnel", "native"] = "tunnel"
    tunnel_protocol: Literal["vxlan"] = "vxlan"
    tunnel_port: Annotated[int, Field(ge=1, le=65535)] = 8472
    auto_direct_node_routes: bool = False
    mtu: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: that of the link to the other nodes
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    enable_ipv4_masquerade: bool = True
    enable_ipv6_masquerade: bool = True
    # Our own key. Nothing on a node may listen on these: above the kernel's own choice (32768-60999) and NodePorts (30000-32767).
    masquerade_port_range: PortRange = (61000, 65535)

    # Pod ranges.
    ipam: Literal["cluster-pool"] = "cluster-pool"
    cluster_pool_ipv4_cidr: Ipv4Pool = (IPv4Network("10.0.0.0/8"),)
    cluster_pool_ipv4_mask_size: Annotated[int, Field(ge=1, le=30)] = 24
    cluster_pool_ipv6_cidr: Ipv6Pool = (IPv6Network("fd00::/104"),)
    cluster_pool_ipv6_mask_size: Annotated[int, Field(ge=1, le=126)] = 112

    # Policy.
    enable_policy: Literal["default", "always", "never"] = "default"
    enable_k8s_networkpolicy: bool = True
    policy_audit_mode: bool = False  # every policy, but for those that are told otherwise (annotation pilus.io/mode)
    policy_cidr_match_mode: NodeWords = ()  # `nodes`: address rules mean other nodes' addresses too
    enable_node_selector_labels: bool = False  # fromNodes, toNodes and `nodes` are in force
    node_labels: Words = ()  # which of a Node's labels make its identity, as `labels` for pods; empty: all

    # The host firewall. Without a value: policies about nodes are in force, and `enable-policy: always` closes pods alone.
    enable_host_firewall: bool | None = None
    host_firewall_lifelines: Lifelines = (
        LIFELINES  # what no policy of a node cuts unless it says so; tcp/2222 for ports of one's own
    )

    # Flows: how long one is remembered without a packet, and how many one pod may hold (0: an eighth of the table).
    bpf_ct_timeout_regular_tcp: Seconds = 8000.0
    bpf_ct_timeout_regular_tcp_syn: Seconds = 60.0
    bpf_ct_timeout_regular_tcp_fin: Seconds = 10.0
    bpf_ct_timeout_regular_any: Seconds = 60.0
    flow_quota_per_endpoint: Annotated[int, Field(ge=0, le=1 << 24)] = 0

    # Events a second of one pod and reason, and how many at once. 0 tells none.
    bpf_events_default_rate_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    bpf_events_default_burst_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 200

    # What the processes serve, and say. "" serves nothing.
    agent_health_serve_addr: str = "127.0.0.1:9879"
    prometheus_serve_addr: str = ":9962"
    hubble_metrics_server: str = ":9965"
    operator_prometheus_serve_addr: str = ":9963"
    operator_api_serve_addr: str = "127.0.0.1:9234"
    debug: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if not (self.enable_ipv4 or self.enable_ipv6):
            raise ValueError("one of enable-ipv4 and enable-ipv6 has to be true")
        try:
            fixed_identities(self.fixed_identity_mapping)
        except InvalidError as error:
            raise ValueError(f"fixed-identity-mapping: {error}") from error
        for name in self.host_firewall_lifelines:
            if not is_lifeline(name):
                raise ValueError(f"host-firewall-lifelines: {name} has no such port")
        first, last = self.masquerade_port_range
        if first > last:
            raise ValueError(f"masquerade-port-range {first}-{last} is empty")
        if first <= _NODE_PORTS[1] and last >= _NODE_PORTS[0]:
            raise ValueError(f"masquerade-port-range {first}-{last} overlaps the NodePorts, 30000-32767")
        pools = ((self.cluster_pool_ipv4_cidr, self.cluster_pool_ipv4_mask_size, self.enable_ipv4, 4),
                 (self.cluster_pool_ipv6_cidr, self.cluster_pool_ipv6_mask_size, self.enable_ipv6, 6))  # fmt: skip
        for networks, mask, enabled, family in pools:
            if not enabled:
                continue
            if not networks:
                raise ValueError(f"cluster-pool-ipv{family}-cidr is empty, and enable-ipv{family} is true")
            for network in networks:
                if network.prefixlen > mask:
                    raise ValueError(f"cluster-pool-ipv{family}-mask-size {mask} is wider than the pool {network}")
        return self


KEYS: tuple[str, ...] = tuple(name.replace("_", "-") for name in Settings.model_fields)

# What a process takes over while it runs; any other key waits for a restart.
LIVE: frozenset[str] = frozenset({
    "debug", "identity-gc-interval", "identity-heartbeat-timeout", "flow-quota-per-endpoint",
    "bpf-ct-timeout-regular-tcp", "bpf-ct-timeout-regular-tcp-syn", "bpf-ct-timeout-regular-tcp-fin", "bpf-ct-timeout-regular-any",
    "bpf-events-default-rate-limit", "bpf-events-default-burst-limit",
})  # fmt: skip
# What the operator alone reads: a change of these is nothing to an agent.
OPERATOR: frozenset[str] = frozenset({
    "identity-gc-interval", "identity-heartbeat-timeout", "ipam", "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size",
    "cluster-pool-ipv6-cidr", "cluster-pool-ipv6-mask-size", "operator-prometheus-serve-addr", "operator-api-serve-addr",
})  # fmt: skip


def nearest(key: str) -> str:
    """The key that somebody may have meant."""
    return difflib.get_close_matches(key, KEYS, 1, 0.0)[0]


def changed(before: Settings, after: Settings) -> frozenset[str]:
    """The keys whose values differ."""
    return frozenset(key for key in KEYS if getattr(before, key.replace("-", "_")) != getattr(after, key.replace("-", "_")))


def parse(held: object) -> Settings:
    """A flat map as settings. Raises InvalidError, which names the key and, if it is unknown, the nearest that is valid."""
    if not isinstance(held, dict):
        raise InvalidError("settings are a map of keys to values")
    data: dict[str, Any] = {}
    for key, value in held.items():
        if key not in KEYS:
            raise InvalidError(f"there is no such setting; the nearest is {nearest(str(key))!r}", str(key))
        if value is not None:
            data[key] = value
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidError(first["msg"].removeprefix("Value error, "), str(first["loc"][0]) if first["loc"] else "") from error


def written(path: Path | str) -> Written:
    """What stands at a path, as it stands there: to see cheaply whether it is something else than before. Raises InvalidError."""
    path = Path(path)
    try:
        if path.is_dir():
            # Names with a dot are the kubelet's: it changes all files at once by one link.
            files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            return {file.name: file.read_text().strip() for file in files}
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"the settings can't be read: {error}", str(path)) from error


def read(found: Written, path: Path | str) -> Settings:
    """What that means. Raises InvalidError; `path` is for its words."""
    if not isinstance(found, str):
        return parse(found)
    try:
        held = yaml.safe_load(found)
    except yaml.YAMLError as error:
        raise InvalidError(f"the settings can't be read: {error}", str(path)) from error
    return parse({} if held is None else held)


def load(path: Path | str) -> Settings:
    """Read the settings from a YAML file, or from a folder of one file a key. Raises InvalidError, also for what can't be read."""
    return read(written(path), path)
