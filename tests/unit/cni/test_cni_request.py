"""Requests as the plugin sends them, and answers as the specification's versions want them."""

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_agent.sources.cni_request import (
    VERSIONS,
    CniError,
    Code,
    Interface,
    Ip,
    Request,
    Route,
    answer_add,
    answer_empty,
    answer_error,
    parse,
    version_of,
)

PREVIOUS = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "plx1", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/run/netns/a", "mtu": 1450}],
    "ips": [{"address": "10.0.1.5/32", "gateway": "10.0.1.1", "interface": 1}, {"address": "fd00::5/128"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.1.1"}],
    "dns": {},
}
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0f9a",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/a",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0.a;K8S_POD_UID=6e0c-1;K8S_POD_INFRA_CONTAINER_ID=0f9a",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.1.0", "name": "pilus", "type": "pilus-cni", "dns": {}, "whatever": [1]}
VALID = {"cni.dev/valid-attachments": [{"containerID": "0f9a", "ifname": "eth0"}]}
GONE = object()


def raw(command: str = "ADD", environment: dict[str, Any] | None = None, config: dict[str, Any] | bytes | None = None) -> bytes:
    needed: dict[str, dict[str, Any]] = {"CHECK": {"prevResult": PREVIOUS}, "GC": VALID}
    variables = {**ENVIRONMENT, "CNI_COMMAND": command, **(environment or {})}
    if not isinstance(config, bytes):
        fields = {**CONFIG, **needed.get(command, {}), **(config or {})}
        config = json.dumps({name: value for name, value in fields.items() if value is not GONE}).encode()
    lines = "".join(f"{name}={value}\n" for name, value in variables.items() if value is not GONE)
    return b"CNI 1\n" + lines.encode("utf-8", "surrogateescape") + b"\n" + config


def test_add() -> None:
    request = parse(raw())
    assert (request.command, request.container, request.interface, request.netns) == ("ADD", "0f9a", "eth0", "/run/netns/a")
    assert (request.namespace, request.pod, request.uid, request.key) == ("default", "web-0.a", "6e0c-1", "0f9a/eth0")
    assert request.args["K8S_POD_INFRA_CONTAINER_ID"] == "0f9a"
    assert (request.config.cni_version, request.config.name, request.config.type) == ("1.1.0", "pilus", "pilus-cni")
    assert request.config.prev_result is None


def test_a_runtime_that_says_no_uid() -> None:
    assert parse(raw(environment={"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;"})).uid == ""


def test_check_brings_the_previous_result() -> None:
    result = parse(raw("CHECK")).config.prev_result
    assert result is not None
    assert [(one.name, one.mtu, one.sandbox) for one in result.interfaces] == [("plx1", 0, ""), ("eth0", 1450, "/run/netns/a")]
    assert [(one.address, one.gateway, one.interface) for one in result.ips] == [
        (ip_interface("10.0.1.5/32"), ip_address("10.0.1.1"), 1),
        (ip_interface("fd00::5/128"), None, None),
    ]
    assert [(one.dst, one.gw) for one in result.routes] == [(ip_network("0.0.0.0/0"), ip_address("10.0.1.1"))]


def test_check_of_what_0_4_0_made() -> None:
    previous = {**PREVIOUS, "ips": [{"version": "4", "address": "10.0.1.5/32"}], "routes": None}
    result = parse(raw("CHECK", config={"cniVersion": "0.4.0", "prevResult": previous})).config.prev_result
    assert result is not None
    assert [str(one.address) for one in result.ips] == ["10.0.1.5/32"]
    assert result.routes == ()


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({}, ["0f9a/eth0"]),
        ({"cni.dev/valid-attachments": GONE, "cni.dev/attachments": [{"containerID": "b", "ifname": "c"}]}, ["b/c"]),
        ({"cni.dev/attachments": [{"containerID": "b", "ifname": "c"}]}, ["0f9a/eth0"]),
        ({"cni.dev/valid-attachments": None}, []),
        ({"cni.dev/valid-attachments": []}, []),
    ],
)
def test_gc_says_what_to_keep(config: dict[str, Any], keys: list[str]) -> None:
    request = parse(raw("GC", {"CNI_CONTAINERID": GONE, "CNI_IFNAME": GONE, "CNI_NETNS": GONE, "CNI_ARGS": GONE}, config))
    assert request.config.valid_attachments is not None
    assert [one.key for one in request.config.valid_attachments] == keys
    assert (request.container, request.interface, request.args) == ("", "", {})


def test_status_needs_nothing() -> None:
    assert parse(b'CNI 1\nCNI_COMMAND=STATUS\n\n{"cniVersion": "1.1.0", "name": "pilus", "type": "x"}').command == "STATUS"


@pytest.mark.parametrize(
    ("environment", "config"),
    [
        ({"CNI_NETNS": ""}, {}),
        ({"CNI_NETNS": GONE}, {}),
        ({"CNI_NETNS": "relative"}, {}),
        ({"CNI_ARGS": GONE}, {}),
        ({"CNI_ARGS": "nonsense;K8S_POD_NAME=b"}, {}),
        ({}, {"prevResult": {"ips": "nonsense"}}),
        ({}, {"prevResult": PREVIOUS}),
        ({}, {"ipam": {"type": "host-local"}}),
        ({}, {"cniVersion": "0.3.1"}),
    ],
)
def test_del_takes_what_it_gets(environment: dict[str, Any], config: dict[str, Any]) -> None:
    request = parse(raw("DEL", environment, config))
    assert request.key == "0f9a/eth0"
    assert request.config.prev_result is None


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version: str) -> None:
    assert parse(raw(config={"cniVersion": version})).config.cni_version == version


@pytest.mark.parametrize(
    ("command", "config", "code"),
    [
        *[
            ("ADD", {"cniVersion": version}, 1)
            for version in (GONE, "0.1.0", "0.3.0", "1.2.0", "", None, 1, True, [], {}, "1.1.0 ")
        ],
        ("CHECK", {"cniVersion": "0.3.1"}, 1),
        ("GC", {"cniVersion": "1.0.0"}, 1),
        ("STATUS", {"cniVersion": "1.0.0"}, 1),
        ("ADD", {"ipam": {"type": "host-local"}}, 2),
        ("ADD", {"runtimeConfig": {"portMappings": [1]}}, 2),
        ("CHECK", {"ipMasq": True}, 2),
        ("ADD", b"", 6),
        ("ADD", b"{", 6),
        ("ADD", b"[]", 6),
        ("ADD", b"null", 6),
        ("ADD", b"\xff\xff", 6),
        ("ADD", b'{"a": ' * 100_000, 6),
        ("ADD", b"1" * 5000, 6),
        *[("ADD", {"name": name}, 7) for name in (GONE, "", None, 1, "a/b", "-a", "a\n", "\ud800")],
        *[("ADD", {"type": kind}, 7) for kind in (GONE, "", None, 1)],
        ("ADD", {"prevResult": PREVIOUS}, 7),
        ("CHECK", {"prevResult": GONE}, 7),
        ("CHECK", {"prevResult": []}, 7),
        ("CHECK", {"prevResult": {"ips": [{"address": "10.0.0.1/33"}]}}, 7),
        ("GC", {"cni.dev/valid-attachments": GONE}, 7),
        ("GC", {"cni.dev/valid-attachments": [{"containerID": "a"}]}, 7),
        ("GC", {"cni.dev/valid-attachments": "all"}, 7),
    ],
)
def test_configurations_that_are_refused(command: str, config: Any, code: int) -> None:
    with pytest.raises(CniError) as refused:
        parse(raw(command, config=config))
    assert refused.value.code == code
    assert len(refused.value.details) < 1000
    assert json.loads(answer_error(refused.value, version_of(raw(command, config=config))).split(b"\n", 1)[1])["code"] == code


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        *[("ADD", {"CNI_COMMAND": text}) for text in (GONE, "", "add", "VERSION", "\x1b")],
        *[("DEL", {"CNI_CONTAINERID": text}) for text in (GONE, "", ".", "../x", "a/b", "-a", "a b", "é", "a" * 201, "²")],
        *[
            ("CHECK", {"CNI_IFNAME": text})
            for text in (GONE, "", ".", "..", "a/b", "a:b", "a b", "a\tb", "a" * 16, "é" * 8, "a\x7f")
        ],
        *[("ADD", {"CNI_NETNS": text}) for text in (GONE, "", "relative", "../x", "/a\tb", "/" * 5000)],
        ("CHECK", {"CNI_NETNS": ""}),
        ("ADD", {"CNI_ARGS": GONE}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE"}),
        ("ADD", {"CNI_ARGS": "=a;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAME=b"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE=a"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=b"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b"}),
        ("ADD", {"CNI_ARGS": f"K8S_POD_NAMESPACE=a;K8S_POD_NAME={'b' * 254}"}),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c d"}),
        ("ADD", {"CNI_PATH": "\udcff"}),
        ("ADD", {"CNI_PATH": "a\0"}),
        ("ADD", {"CNI_PATH": "a" * 70_000}),
        ("ADD", {"PATH": "/bin"}),
        ("ADD", {"CNI_É": "a"}),
        ("ADD", {"CNI_X": "a\nCNI_NETNS=/other"}),
        ("ADD", {"CNI_X": "a\nnonsense"}),
    ],
)
def test_environments_that_are_refused(command: str, environment: dict[str, Any]) -> None:
    with pytest.raises(CniError) as refused:
        parse(raw(command, environment))
    assert refused.value.code == 4
    assert len(refused.value.details) < 1000
    assert refused.value.details.isprintable()


@pytest.mark.parametrize("sent", [b"", b"CNI 2\n\n{}", b"{}\n\n", b"CNI 1", b"CNI 1\n", b"CNI 1\nCNI_COMMAND=ADD\n"])
def test_other_languages(sent: bytes) -> None:
    with pytest.raises(CniError) as refused:
        parse(sent)
    assert refused.value.code == Code.DECODE_FAILURE
    assert version_of(sent) == "1.1.0"


def test_no_part_of_a_request_is_a_request() -> None:
    whole = raw()
    for length in range(len(whole)):
        with pytest.raises(CniError):
            parse(whole[:length])


@given(st.binary() | st.binary().map(lambda tail: b"CNI 1\n" + tail) | st.binary().map(lambda tail: raw()[:-20] + tail))
def test_any_bytes_are_a_request_or_an_error(sent: bytes) -> None:
    try:
        assert isinstance(parse(sent), Request)
    except CniError as error:
        json.loads(answer_error(error, version_of(sent)).split(b"\n", 1)[1])


# -- answers -------------------------------------------------------------------------------------------------------------------

INTERFACES = [Interface("plx1", "02:00:00:00:00:01", 1450), Interface("eth0", "02:00:00:00:00:02", 1450, "/run/netns/a")]
IPS = [Ip(ip_interface("10.0.1.5/32"), ip_address("10.0.1.1"), 1), Ip(ip_interface("fd00::5/128"))]
ROUTES = [Route(ip_network("0.0.0.0/0"), ip_address("10.0.1.1")), Route(ip_network("::/0"))]


@pytest.mark.parametrize("version", VERSIONS)
def test_result_in_every_version(version: str) -> None:
    answer = answer_add(version, INTERFACES, IPS, ROUTES)
    code, body = answer.split(b"\n", 1)
    assert code == b"0"
    assert body.endswith(b"\n")
    mtu = {"mtu": 1450} if version == "1.1.0" else {}
    four, six = ({"version": "4"}, {"version": "6"}) if version.startswith("0.") else ({}, {})
    assert json.loads(body) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "plx1", "mac": "02:00:00:00:00:01", **mtu},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a", **mtu},
        ],
        "ips": [{**four, "address": "10.0.1.5/32", "gateway": "10.0.1.1", "interface": 1}, {**six, "address": "fd00::5/128"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.1.1"}, {"dst": "::/0"}],
        "dns": {},
    }


def test_a_result_comes_back_as_the_previous_one() -> None:
    result = json.loads(answer_add("1.1.0", INTERFACES, IPS, ROUTES).split(b"\n", 1)[1])
    previous = parse(raw("CHECK", config={"prevResult": result})).config.prev_result
    assert previous is not None
    assert [one.name for one in previous.interfaces] == ["plx1", "eth0"]
    assert [one.address for one in previous.ips] == [one.address for one in IPS]


def test_other_answers() -> None:
    assert answer_empty() == b"0\n"
    error = CniError(Code.TRY_AGAIN_LATER, 'say "when"\n', "\x1b[31mé")
    code, body = answer_error(error, "0.4.0").split(b"\n", 1)
    assert code == b"1"
    assert json.loads(body) == {"cniVersion": "0.4.0", "code": 11, "msg": 'say "when"\n', "details": "\x1b[31mé"}
    assert b"\x1b" not in body
    assert json.loads(answer_error(CniError(7, "x"), "9").split(b"\n", 1)[1]) == {"cniVersion": "1.1.0", "code": 7, "msg": "x"}


@pytest.mark.parametrize(
    ("sent", "version"),
    [(raw(config={"cniVersion": "0.4.0"}), "0.4.0"), (raw(config={"cniVersion": "9"}), "1.1.0"), (raw(config=b"{"), "1.1.0")],
)
def test_version_to_answer_in(sent: bytes, version: str) -> None:
    assert version_of(sent) == version
