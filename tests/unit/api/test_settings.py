"""Settings: from a ConfigMap's strings to values, and what is refused."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from pilus_api.errors import InvalidError
from pilus_api.settings import Settings, load, parse
from pilus_lab.lab import SETTINGS as LAB_SETTINGS


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("")
    settings = load(path)
    assert settings == Settings()
    assert (settings.cluster_name, settings.routing_mode, settings.tunnel_port) == ("default", "tunnel", 8472)


def test_the_lab_s_file_is_understood() -> None:
    settings = parse(LAB_SETTINGS)
    assert settings.cluster_pool_ipv4_cidr == (IPv4Network("10.44.0.0/16"),)
    assert settings.cluster_pool_ipv6_cidr == (IPv6Network("fd00:44::/48"),)
    assert (settings.cluster_pool_ipv6_mask_size, settings.enable_ipv6) == (64, True)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("enable-ipv6", "true", True),
        ("enable-ipv4-masquerade", "false", False),
        ("mtu", "1400", 1400),
        ("labels", "k8s:app !k8s:version,k8s:team", ("k8s:app", "!k8s:version", "k8s:team")),
        ("labels", "", ()),
        ("label-prefix-file", "/etc/pilus/labels/file.json", "/etc/pilus/labels/file.json"),
        ("label-prefix-file", "", ""),
        ("label-prefix-file", None, ""),
        ("identity-gc-interval", "15m0s", 900.0),
        ("identity-gc-interval", "1h30m", 5400.0),
        ("identity-gc-interval", "250ms", 0.25),
        ("identity-gc-interval", "30", 30.0),
        ("identity-gc-interval", 30, 30.0),
        ("cluster-pool-ipv4-cidr", "10.1.0.0/16 10.2.0.0/16", (IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16"))),
        ("cluster-name", None, "default"),
        ("masquerade-port-range", "61000-62000", (61000, 62000)),
        ("masquerade-port-range", "40000,50000", (40000, 50000)),
        ("masquerade-port-range", None, (61000, 65535)),
        ("policy-cidr-match-mode", "nodes", ("nodes",)),
        ("policy-cidr-match-mode", "", ()),
        ("enable-node-selector-labels", "true", True),
        ("node-labels", "node:rack topology", ("node:rack", "topology")),
    ],
)
def test_values_are_read_from_strings(key: str, text: object, value: object) -> None:
    assert getattr(parse({key: text}), key.replace("-", "_")) == value


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"enable-ipv": "true"}, "enable-ipv: there is no such setting; the nearest is 'enable-ipv"),
        ({"tunnel": "vxlan"}, "tunnel: there is no such setting; the nearest is 'tunnel-p"),
        ({"cluster_name": "x"}, "nearest is 'cluster-name'"),
        ({3: "x"}, "3: there is no such setting"),
        ({"tunnel-protocol": "geneve"}, "tunnel-protocol: "),
        ({"identity-gc-interval": "soon"}, "identity-gc-interval: 'soon' is no duration"),
        ({"identity-gc-interval": "0s"}, "identity-gc-interval: "),
        ({"cluster-pool-ipv4-cidr": "10.1.2.3/16"}, "cluster-pool-ipv4-cidr: "),
        ({"cluster-pool-ipv4-cidr": ""}, "cluster-pool-ipv4-cidr is empty"),
        ({"cluster-pool-ipv4-cidr": "10.0.0.0/26"}, "mask-size 24 is wider"),
        ({"enable-ipv4": "false"}, "enable-ipv4 and enable-ipv6"),
        ({"masquerade-port-range": "65000-61000"}, "masquerade-port-range 65000-61000 is empty"),
        ({"masquerade-port-range": "32000-40000"}, "overlaps the NodePorts"),
        ({"masquerade-port-range": "80-90"}, "masquerade-port-range: "),
        ({"masquerade-port-range": "61000"}, "masquerade-port-range: "),
        ({"label-prefix-file": "labels.json"}, "label-prefix-file: "),  # from which folder, nobody would know
        (["a"], "settings are a map"),
    ],
)
def test_what_means_nothing_is_refused_by_name(held: object, said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(held)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidError, match=r"settings\.yaml"):
        load(path)
