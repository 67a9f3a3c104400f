"""The connection to the API server: JSON in, JSON out, and errors that say what happened.

In: a kubeconfig, or the files that a pod finds. Out: one HTTP session with the right certificates and token. Never: retries
(the caller knows whether trying again makes sense) or model classes (they cost milliseconds an object).
"""

import asyncio
import base64
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import yaml

from pilus_api.decode import decode
from pilus_api.errors import InvalidError, PilusError, TemporaryError

Object = dict[str, Any]
Parameters = Mapping[str, str | int]

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
JSON_PATCH: Final = "application/json-patch+json"

# A mounted token is replaced when 80 % of its life is over; reading it once a minute is often enough.
_TOKEN_SECONDS = 60.0


class ApiError(PilusError):
    """The API server refused. `status` is HTTP's, `reason` the Status object's (such as `Invalid`)."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Forbidden(ApiError):  # noqa: N818  # the reason's name, as the API server writes it
    """401 or 403: the token is not valid, or RBAC does not grant this (manifests/rbac.yaml)."""


class NotFound(ApiError):  # noqa: N818
    """The object, or the whole kind (are the CRDs applied?), does not exist."""


class Conflict(ApiError):  # noqa: N818
    """Somebody wrote it in between, or a precondition does not hold: read again, then decide again."""


class AlreadyExists(ApiError):  # noqa: N818
    """Creating what is there."""


class Expired(ApiError):  # noqa: N818
    """410: the resourceVersion or the page's token is too old; list again."""


class Unavailable(ApiError, TemporaryError):  # noqa: N818
    """Not reached, overloaded or starting. `retry_after` is the server's wish in seconds, 0 without one."""

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, status, reason)
        self.retry_after = retry_after


def error_from(status: int, body: object, what: str, retry_after: str = "") -> ApiError:
    """The error for an answer: `body` is its Status object, if it has one."""
    held = body if isinstance(body, dict) else {}
    reason = str(held.get("reason") or "")
    text = f"{what}: {held.get('message') or f'HTTP status {status}'}"
    if status == 409:
        return (AlreadyExists if reason == "AlreadyExists" else Conflict)(text, status, reason)
    if status == 429 or status >= 500:
        return Unavailable(text, status, reason, float(retry_after) if retry_after.isdigit() else 0.0)
    leaf = {401: Forbidden, 403: Forbidden, 404: NotFound, 410: Expired}.get(status, ApiError)
    return leaf(text, status, reason)


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and who we are. Without a token or a certificate we are nobody."""

    server: str
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None


def _material(section: Mapping[str, Any], name: str, folder: Path, base: Path) -> str:
    """The path of a certificate or key that a kubeconfig names, or holds (it is written out, because OpenSSL wants files)."""
    if data := section.get(f"{name}-data"):
        path = folder / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(data))
        return str(path)
    return str(base / section[name]) if section.get(name) else ""


def _named(held: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for entry in held.get(f"{kind}s") or ():
        if entry.get("name") == name:
            return dict(entry.get(kind) or {})
    raise InvalidError(f"the kubeconfig has no {kind} {name!r}")


def read_kubeconfig(path: Path | str, context: str = "") -> Access:
    """The access that a kubeconfig's context (default: the current one) gives. Raises InvalidError."""
    path = Path(path)
    try:
        held = yaml.safe_load(path.read_text()) or {}
        chosen = _named(held, "context", context or held.get("current-context", ""))
        cluster = _named(held, "cluster", chosen.get("cluster", ""))
        user = _named(held, "user", chosen.get("user", ""))
        server = cluster["server"]
        token_file = Path(user["tokenFile"]) if user.get("tokenFile") else None
        if not server.startswith("https:"):
            return Access(server, None, user.get("token") or "", token_file)
        # OpenSSL has read them when this ends, so no key stays on the disk.
        with tempfile.TemporaryDirectory(prefix="pilus-tls-") as scratch:
            folder = Path(scratch)
            ca_file = _material(cluster, "certificate-authority", folder, path.parent)
            tls = ssl.create_default_context(cafile=ca_file or None)
            if cluster.get("insecure-skip-tls-verify"):
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            if certificate := _material(user, "client-certificate", folder, path.parent):
                tls.load_cert_chain(certificate, _material(user, "client-key", folder, path.parent) or None)
        return Access(server, tls, user.get("token") or "", token_file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InvalidError(f"the kubeconfig can't be used: {error or type(error).__name__}", str(path)) from error


def in_cluster(server: str = "") -> Access:
    """The access of a pod's service account; `server` in place of the address that the pod was told. Raises InvalidError outside a
    pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise InvalidError("this is no pod of a cluster: name a kubeconfig")
    ca_file = SERVICE_ACCOUNT / "ca.crt"
    try:
        tls = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        raise InvalidError(f"the service account's files can't be read: {error}", str(ca_file)) from error
    told = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return Access(server or told, tls, "", SERVICE_ACCOUNT / "token")


def _keepalive(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices within half a minute that the other side has gone: a watch may be silent for much longer."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made


class Connection:
    """One session with the API server; an async context manager. Paths begin with `/api` or `/apis`."""

    def __init__(self, access: Access, *, timeout: float = 30.0, connections: int = 100) -> None:
        self.access = access
        self._timeout = timeout
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._token = access.token
        self._token_read = float("-inf")

    @classmethod
    def from_kubeconfig(cls, path: Path | str, context: str = "") -> Self:
        return cls(read_kubeconfig(path, context))

    @classmethod
    def in_cluster(cls, server: str = "") -> Self:
        return cls(in_cluster(server))

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self.access.tls or True, socket_factory=_keepalive)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(self._timeout))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def token(self) -> str:
        """The bearer token as it is now; "" without one."""
        path = self.access.token_file
        if path is not None and time.monotonic() - self._token_read > _TOKEN_SECONDS:
            try:
                self._token = (await asyncio.to_thread(path.read_text)).strip()
            except OSError as error:
                raise Unavailable(f"the token can't be read: {error}") from error
            self._token_read = time.monotonic()
        return self._token

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Parameters | None = None,
        body: object = None,
        content: str = "application/json",
        accept: str = "application/json",
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is still to be read. Raises ApiError's leaves, for what happens while it is read too."""
        if self._session is None:
            raise RuntimeError("the connection is used inside `async with` only")
        what = f"{method} {path}"
        headers = {"Accept": accept}
        if token := await self.token():
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = content
        try:
            async with self._session.request(
                method, self.access.server.rstrip("/") + path, params=params, data=data, headers=headers,
                timeout=limits or aiohttp.ClientTimeout(self._timeout),
            ) as answer:  # fmt: skip
                if answer.status >= 400:
                    if answer.status == 401:
                        self._token_read = float("-inf")
                    raw = await answer.read()
                    try:
                        held = decode(raw)
                    except ValueError:
                        held = {"message": raw[:200].decode(errors="replace")}
                    raise error_from(answer.status, held, what, answer.headers.get("Retry-After", ""))
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{what}: {error or type(error).__name__}") from error

    async def _call(self, method: str, path: str, **options: Any) -> Object:
        async with self.open(method, path, **options) as answer:
            raw = await answer.read()
        try:
            held = decode(raw)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: the answer is no JSON") from error
        return held if isinstance(held, dict) else {}

    async def get(self, path: str, params: Parameters | None = None) -> Object:
        return await self._call("GET", path, params=params)

    async def list_all(self, path: str, page: int = 500) -> list[Object]:
        """Every object of a collection, once. Whoever wants to go on hearing of them: pilus_api.watch."""
        found: list[Object] = []
        after = ""
        while True:
            held = await self.get(path, {"limit": str(page)} | ({"continue": after} if after else {}))
            found += held.get("items") or []
            after = str((held.get("metadata") or {}).get("continue") or "")
            if not after:
                return found

    async def post(self, path: str, body: Object, params: Parameters | None = None) -> Object:
        return await self._call("POST", path, body=body, params=params)

    async def put(self, path: str, body: Object, params: Parameters | None = None) -> Object:
        """Replace; with `metadata.resourceVersion` in the body only if nobody wrote in between (else Conflict)."""
        return await self._call("PUT", path, body=body, params=params)

    async def patch(self, path: str, body: object, params: Parameters | None = None, content: str = MERGE_PATCH) -> Object:
        return await self._call("PATCH", path, body=body, params=params, content=content)

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> Object:
        """Delete, if uid and resourceVersion (where given) are still these. Raises NotFound, Conflict."""
        conditions = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        body = {"apiVersion": "v1", "kind": "DeleteOptions"} | ({"preconditions": conditions} if conditions else {})
        return await self._call("DELETE", path, body=body)
