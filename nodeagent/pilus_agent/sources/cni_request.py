"""A runtime's request, from the plugin's bytes to a value, and the answers, from values to the plugin's bytes.

In: `CNI 1`, a line for each CNI_* variable, an empty line, the network configuration (JSON). Out: Request, or CniError with a
code of the specification (https://www.cni.dev/docs/spec/, 0.3.1 to 1.1.0). Touches no kernel, no clock, no socket: what a
request does is decided elsewhere.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Interface, IPv6Interface
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from pilus_agent.facts import Address, Network
from pilus_api.errors import PilusError

Command = Literal["ADD", "DEL", "CHECK", "GC", "STATUS"]

HEAD: Final = b"CNI 1\n"
VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINCE: Final = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_COMMANDS: Final = frozenset(get_args(Command))
_UNSUPPORTED: Final = ("ipam", "ipMasq", "runtimeConfig")  # to ignore them would be to promise what is not done
_ENVIRONMENT: Final = 1 << 16  # bytes
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_UID: Final = re.compile(r"[A-Za-z0-9-]{1,128}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class Code(IntEnum):
    """The specification's error codes, as far as they are used here."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51  # not available, and pods that run may have lost their network


class CniError(PilusError):
    """An answer to the runtime. `code` is the specification's (or 100 and above, ours); the runtime shows msg and details."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code, self.msg, self.details = int(code), msg, details


class _Part(BaseModel):
    # Runtimes and other plugins add fields of their own.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


def _listed(value: object) -> object:
    return () if value is None else value


# Go writes a list that nothing was put into as null.
_FROM_GO: Final = BeforeValidator(_listed)


class Kept(_Part):
    """An attachment that GC must keep."""

    container: Annotated[str, Field(alias="containerID")]
    interface: Annotated[str, Field(alias="ifname")]

    @property
    def key(self) -> str:
        return f"{self.container}/{self.interface}"


class PreviousInterface(_Part):
    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


class PreviousAddress(_Part):
    address: IPv4Interface | IPv6Interface
    gateway: Address | None = None
    interface: int | None = None  # an index into interfaces


class PreviousRoute(_Part):
    dst: Network
    gw: Address | None = None


class PreviousResult(_Part):
    """What an earlier ADD answered, as the runtime gives it back."""

    interfaces: Annotated[tuple[PreviousInterface, ...], _FROM_GO] = ()
    ips: Annotated[tuple[PreviousAddress, ...], _FROM_GO] = ()
    routes: Annotated[tuple[PreviousRoute, ...], _FROM_GO] = ()


class NetworkConfig(_Part):
    """What matters of the network configuration. `valid_attachments` is None where the request says nothing of them."""

    cni_version: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
    type: Annotated[str, Field(min_length=1)]
    prev_result: PreviousResult | None = None
    valid_attachments: Annotated[tuple[Kept, ...] | None, _FROM_GO, Field(alias="cni.dev/valid-attachments")] = None


@dataclass(frozen=True, slots=True)
class Request:
    """One operation. `container` and `interface` are empty for GC and STATUS; `netns` is empty where none was given."""

    command: Command
    container: str
    interface: str
    netns: str
    args: Mapping[str, str]
    config: NetworkConfig

    @property
    def key(self) -> str:
        """The attachment's name in the facts."""
        return f"{self.container}/{self.interface}"

    @property
    def namespace(self) -> str:
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod(self) -> str:
        return self.args.get("K8S_POD_NAME", "")

    @property
    def uid(self) -> str:
        """Empty from runtimes that do not say it (containerd before 1.6)."""
        return self.args.get("K8S_POD_UID", "")


# -- requests ------------------------------------------------------------------------------------------------------------------


def parse(raw: bytes) -> Request:
    """A whole request, from the socket or from the queue on disk. Raises CniError."""
    head, body = _split(raw)
    environment = _environment(head)
    command = environment.get("CNI_COMMAND", "")
    if command not in _COMMANDS:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_COMMAND is no operation of CNI that an agent answers", repr(command))
    config = _config(command, body)
    return Request(
        command=command,  # type: ignore[arg-type]  # one of _COMMANDS
        container=_container(command, environment.get("CNI_CONTAINERID", "")),
        interface=_interface(command, environment.get("CNI_IFNAME", "")),
        netns=_netns(command, environment.get("CNI_NETNS", "")),
        args=_args(command, environment.get("CNI_ARGS", "")),
        config=config,
    )


def version_of(raw: bytes) -> str:
    """The version to answer in: the request's if it can be read and is known, else the newest. Never raises."""
    try:
        version = _decoded(_split(raw)[1]).get("cniVersion")
    except CniError:
        version = None
    return version if isinstance(version, str) and version in VERSIONS else VERSIONS[-1]


def _split(raw: bytes) -> tuple[bytes, bytes]:
    if not raw.startswith(HEAD):
        raise CniError(
            Code.DECODE_FAILURE, "the plugin speaks another language than this agent: install the agent's own", repr(raw[:20])
        )
    head, end, body = raw[len(HEAD) - 1 :].partition(b"\n\n")
    if not end:
        raise CniError(Code.DECODE_FAILURE, "the request ends within its environment")
    if len(head) > _ENVIRONMENT:
        raise CniError(Code.INVALID_ENVIRONMENT, f"the CNI_* variables are longer than {_ENVIRONMENT} bytes")
    return head.removeprefix(b"\n"), body


def _environment(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.split(b"\n") if head else ():
        name, equals, value = line.partition(b"=")
        try:
            text = name.decode("ascii"), value.decode()
        except UnicodeDecodeError:
            raise CniError(Code.INVALID_ENVIRONMENT, "a CNI_* variable is not UTF-8", repr(line[:100])) from None
        if not equals or not text[0].startswith("CNI_") or text[0] in found or "\0" in text[1]:
            raise CniError(Code.INVALID_ENVIRONMENT, "not a CNI_* variable, or one that came before", repr(line[:100]))
        found[text[0]] = text[1]
    return found


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.DECODE_FAILURE, "failed to decode content: the network configuration is not JSON", str(error)) from None
    if not isinstance(content, dict):
        raise CniError(Code.DECODE_FAILURE, "failed to decode content: the network configuration is not a JSON object")
    return content


def _config(command: str, body: bytes) -> NetworkConfig:
    content = _decoded(body)
    version = content.get("cniVersion", "0.1.0")  # what its absence means, by the specification
    if version not in VERSIONS or VERSIONS.index(version) < VERSIONS.index(_SINCE.get(command, VERSIONS[0])):
        details = f"{command} in {version!r}; this plugin knows {', '.join(VERSIONS)}"
        raise CniError(Code.INCOMPATIBLE_VERSION, "incompatible CNI version", details[:300])
    if command == "DEL":
        content.pop("prevResult", None)  # the agent knows what it made; one that can't be read must not keep an address
    if command in ("ADD", "CHECK"):
        for field in _UNSUPPORTED:
            if content.get(field):
                shown = f"{json.dumps(field)}: {json.dumps(content[field])}"
                raise CniError(Code.UNSUPPORTED_FIELD, "unsupported field in network configuration", shown[:300])
    if "cni.dev/valid-attachments" not in content and "cni.dev/attachments" in content:
        content["cni.dev/valid-attachments"] = content["cni.dev/attachments"]  # the name in libcni's first releases of GC
    try:
        config = NetworkConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise CniError(Code.INVALID_CONFIGURATION, "invalid network config", f"{where}: {first['msg']}") from None
    if command == "CHECK" and config.prev_result is None:
        raise CniError(Code.INVALID_CONFIGURATION, "invalid network config", "prevResult: CHECK needs it")
    if command == "ADD" and config.prev_result is not None:
        details = "prevResult: another plugin made a network before; pilus-cni must be the first in its list"
        raise CniError(Code.INVALID_CONFIGURATION, "invalid network config", details)
    if command == "GC" and config.valid_attachments is None:
        # To take its absence for an empty list would be to delete every pod's network.
        raise CniError(Code.INVALID_CONFIGURATION, "invalid network config", "cni.dev/valid-attachments: GC needs it")
    return config


def _container(command: str, text: str) -> str:
    if command in ("GC", "STATUS"):
        return ""
    if not _CONTAINER.fullmatch(text):
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_CONTAINERID is not a container's id", repr(text[:300]))
    return text


def _interface(command: str, text: str) -> str:
    if command in ("GC", "STATUS"):
        return ""
    if not text.isprintable() or set(text) & set("/: ") or text in ("", ".", "..") or len(text.encode()) > 15:
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_IFNAME is not an interface's name", repr(text[:300]))
    return text


def _netns(command: str, text: str) -> str:
    if text.startswith("/") and text.isprintable() and len(text) < 4096:
        return text
    if command in ("ADD", "CHECK"):
        raise CniError(Code.INVALID_ENVIRONMENT, "CNI_NETNS is not an absolute path", repr(text[:300]))
    return ""  # a pod whose namespace is gone is still to be cleaned up


def _args(command: str, text: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        if not pair:
            continue
        if not equals or not name:
            if command == "DEL":
                continue
            raise CniError(
                Code.INVALID_ENVIRONMENT, "CNI_ARGS is not a list of NAME=VALUE with semicolons between", repr(text[:300])
            )
        found[name] = value
    if command == "ADD":
        valid = {"K8S_POD_NAMESPACE": _LABEL, "K8S_POD_NAME": _SUBDOMAIN}
        if "K8S_POD_UID" in found:
            valid["K8S_POD_UID"] = _UID
        for name, pattern in valid.items():
            if not pattern.fullmatch(found.get(name, "")):
                details = f"{name}={found.get(name, '')!r}"
                raise CniError(Code.INVALID_ENVIRONMENT, "CNI_ARGS does not name a pod of Kubernetes", details[:300])
    return MappingProxyType(found)


# -- answers -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mac: str
    mtu: int = 0
    sandbox: str = ""  # empty: on the host


@dataclass(frozen=True, slots=True)
class Ip:
    address: IPv4Interface | IPv6Interface
    gateway: Address | None = None
    interface: int | None = None  # an index into the interfaces


@dataclass(frozen=True, slots=True)
class Route:
    to: Network
    gateway: Address | None = None


def answer_add(version: str, interfaces: Iterable[Interface], ips: Iterable[Ip], routes: Iterable[Route] = ()) -> bytes:
    """A result in the shape of `version`, one of VERSIONS."""
    level = VERSIONS.index(version)
    result = {
        "cniVersion": version,
        "interfaces": [
            {
                "name": one.name,
                "mac": one.mac,
                **({"mtu": one.mtu} if one.mtu and level >= VERSIONS.index("1.1.0") else {}),
                **({"sandbox": one.sandbox} if one.sandbox else {}),
            }
            for one in interfaces
        ],
        "ips": [
            {
                **({"version": str(one.address.version)} if level < VERSIONS.index("1.0.0") else {}),
                "address": str(one.address),
                **({"gateway": str(one.gateway)} if one.gateway is not None else {}),
                **({"interface": one.interface} if one.interface is not None else {}),
            }
            for one in ips
        ],
        "routes": [{"dst": str(one.to), **({"gw": str(one.gateway)} if one.gateway is not None else {})} for one in routes],
        "dns": {},
    }
    return _framed(0, result)


def answer_empty() -> bytes:
    """The success of everything but ADD."""
    return b"0\n"


def answer_error(error: CniError, version: str) -> bytes:
    content = {"cniVersion": version if version in VERSIONS else VERSIONS[-1], "code": error.code, "msg": error.msg}
    return _framed(1, {**content, "details": error.details} if error.details else content)


def _framed(exit_code: int, content: Mapping[str, object]) -> bytes:
    # One line: the plugin takes an answer that does not end with a newline for one that was cut off.
    return b"%d\n%s\n" % (exit_code, json.dumps(content).encode())
