"""CNI as a source: what the runtime asks becomes an attachment among the facts, and the answer waits for the kernel.

In: the plugin's bytes. Out: the plugin's bytes. ADD is: put the fact, await the revision, answer. DEL always succeeds.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_interface, ip_network
from pathlib import Path

import structlog

from pilus_agent.endpoints import Endpoints, NotReadyError, PodNamespaceError
from pilus_agent.facts import Address, Attachment, Pod
from pilus_agent.objects import routers_of
from pilus_agent.sources.cni_request import (
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
from pilus_agent.wiring import Wiring
from pilus_api.errors import PilusError, TemporaryError

_log = structlog.get_logger(__name__)

# How long ADD waits for the pod's object, for its identity, and for the kernel.
_POD_SECONDS = 5.0
_IDENTITY_SECONDS = 5.0
_KERNEL_SECONDS = 10.0
# GC leaves alone what is younger: the runtime's list may be older.
_YOUNG_SECONDS = 60.0
_DRAIN_SECONDS = 10.0
_BROKEN = ".broken"  # the end of a queued file's name that makes no sense


class CniSource:
    """One runtime's requests, one at a time for each attachment."""

    def __init__(self, wiring: Wiring, endpoints: Endpoints, queue: Path) -> None:
        self._wiring = wiring
        self._endpoints = endpoints
        self._queue = queue
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}  # of a lock: who has it and who waits
        self._made: dict[str, float] = {}  # when ADD began, for GC

    async def answer(self, raw: bytes) -> bytes:
        """Never raises."""
        try:
            request = parse(raw)
            return await self._serve(request)
        except CniError as error:
            return answer_error(error, version_of(raw))
        except TemporaryError as error:
            return answer_error(CniError(Code.TRY_AGAIN_LATER, "try again later", str(error)), version_of(raw))
        except PodNamespaceError as error:
            return answer_error(CniError(Code.UNKNOWN_CONTAINER, "the pod's namespace is gone", str(error)), version_of(raw))
        except PilusError as error:
            _log.warning("a pod's network could not be made", error=str(error))
            return answer_error(CniError(Code.IO_FAILURE, "can't make the pod's network", str(error)), version_of(raw))
        except Exception as error:  # noqa: BLE001  # the guard of an eternal server: the runtime gets an answer, the log the trace
            _log.exception("a CNI request failed")
            return answer_error(CniError(Code.IO_FAILURE, "the agent failed", repr(error)), version_of(raw))

    async def _serve(self, request: Request) -> bytes:
        match request.command:
            case "STATUS":
                self._require_ready(Code.NOT_AVAILABLE)
                return answer_empty()
            case "GC":
                return await self._collect(request)
            case "ADD":
                async with self._lock(request.key):
                    return await self._add(request)
            case "DEL":
                async with self._lock(request.key):
                    await self.delete(request.key)
                return answer_empty()
            case _:
                return await self._check(request)

    @asynccontextmanager
    async def _lock(self, key: str) -> AsyncIterator[None]:
        """One lock for a key for as long as anybody has it or waits for it."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]

    def _require_ready(self, code: Code) -> None:
        if not self._wiring.ready:
            missing = sorted(self._wiring.trouble.values(), key=lambda trouble: trouble.what)
            why = "; ".join(trouble.message for trouble in missing) or "the agent has not heard everything from the API server yet"
            raise CniError(code, "the agent can't make pods yet", why)

    # -- ADD -------------------------------------------------------------------------------------------------------------

    async def _add(self, request: Request) -> bytes:
        started = time.monotonic()
        self._require_ready(Code.TRY_AGAIN_LATER)
        # A DEL of an earlier life of this container must not end the one that begins.
        (self._queue / f"{request.container}-{request.interface}").unlink(missing_ok=True)
        pod = await self._pod(request)
        routers = self._routers()
        links = self._wiring.links
        if links is None:
            raise NotReadyError("this node's links are not there")
        self._made[request.key] = started
        attachment = await self._endpoints.prepare(
            request.key, (pod.namespace, pod.name, pod.uid), request.netns, links.pod_mtu, routers
        )
        self._wiring.put("attachments", request.key, attachment)
        try:
            await self._identity(request.key)
            if not await self._wiring.until(lambda: self._realised(request.key), _KERNEL_SECONDS):
                raise NotReadyError("the pod's rows did not get into the kernel: see `pilus status`")
            await self._endpoints.connect(attachment, routers)
        except BaseException:
            await self.delete(request.key)
            raise
        _log.info(
            "pod connected", pod=f"{pod.namespace}/{pod.name}", addresses=[str(address) for address in attachment.addresses],
            identity=self._wiring.endpoints[request.key].identity, seconds=round(time.monotonic() - started, 3),
        )  # fmt: skip
        return self._result(request, attachment, routers, links.pod_mtu)

    async def _pod(self, request: Request) -> Pod:
        """The pod that the runtime names; its object may reach us after the kubelet has acted on it."""
        name = f"{request.namespace}/{request.pod}"
        pods = self._wiring.facts.pods

        def known() -> bool:
            pod = pods.get(name)
            return pod is not None and (not request.uid or pod.uid == request.uid)

        if not known() and not await self._wiring.until(known, _POD_SECONDS):
            raise NotReadyError(f"the API server has not told this node of pod {name}")
        return pods[name]

    async def _identity(self, key: str) -> None:
        def known() -> bool:
            endpoint = self._wiring.endpoints.get(key)
            return endpoint is not None and endpoint.identity is not None

        if not await self._wiring.until(known, _IDENTITY_SECONDS):
            _log.warning("no identity in time, the pod starts as reserved:init", endpoint=key)
            self._wiring.give_up(key)

    def _realised(self, key: str) -> bool:
        endpoint = self._wiring.endpoints.get(key)
        return endpoint is not None and endpoint.identity is not None and self._wiring.settled(key)

    def _routers(self) -> dict[int, Address]:
        return {address.version: address for address in routers_of(self._wiring.own_ranges)}

    def _result(self, request: Request, attachment: Attachment, routers: dict[int, Address], mtu: int) -> bytes:
        interfaces = (
            Interface(attachment.link, attachment.gateway_mac, mtu),
            Interface(attachment.interface, attachment.mac, mtu, request.netns),
        )
        ips = [Ip(ip_interface(str(address)), routers[address.version], 1) for address in attachment.addresses]
        routes = [
            Route(ip_network("0.0.0.0/0" if address.version == 4 else "::/0"), routers[address.version])
            for address in attachment.addresses
        ]
        return answer_add(request.config.cni_version, interfaces, ips, routes)

    # -- the others ------------------------------------------------------------------------------------------------------

    async def delete(self, key: str) -> None:
        """Idempotent. The rows leave the kernel before the address may be another's."""
        self._made.pop(key, None)
        attachment = await self._endpoints.remove(key)
        if attachment is None:
            return
        self._wiring.put("attachments", key, None)
        if self._wiring.in_sync:
            await self._wiring.realise(_KERNEL_SECONDS)
        self._endpoints.forget(attachment)

    async def _check(self, request: Request) -> bytes:
        attachment = self._endpoints.attachments.get(request.key)
        if attachment is None:
            raise CniError(Code.UNKNOWN_CONTAINER, "this agent made no network for the container", request.key)
        previous = request.config.prev_result
        told = {address.address.ip for address in previous.ips} if previous else set()
        if told != set(attachment.addresses):
            details = f"{sorted(map(str, told))} was told, {sorted(map(str, attachment.addresses))} is"
            raise CniError(Code.INVALID_CONFIGURATION, "the container's addresses are others", details)
        if not self._realised(request.key):
            raise CniError(Code.TRY_AGAIN_LATER, "try again later", "the pod's rows are not in the kernel")
        return answer_empty()

    async def _collect(self, request: Request) -> bytes:
        """Remove what the runtime does not name any more."""
        self._require_ready(Code.TRY_AGAIN_LATER)
        kept = {one.key for one in request.config.valid_attachments or ()}
        # One that began after the runtime wrote its list is not in it, and is not to be removed.
        young = {key for key, began in self._made.items() if time.monotonic() - began < _YOUNG_SECONDS}
        failed: PilusError | None = None
        for key in set(self._endpoints.attachments) - kept - young:
            _log.info("the runtime does not know this container any more, removed", endpoint=key)
            try:
                async with self._lock(key):
                    await self.delete(key)
            except PilusError as error:  # the others can go
                failed = error
        if failed is not None:
            raise failed
        return answer_empty()

    async def drain(self) -> None:
        """What was deleted while no agent ran, or none answered in time. A file that makes no sense is put aside, said once; a DEL
        that can't be done now stays for the next time."""
        if not await asyncio.to_thread(self._queue.is_dir):
            return
        for path in sorted(self._queue.iterdir()):
            if path.name.startswith(".") or path.name.endswith(_BROKEN):
                continue
            try:
                raw = path.read_bytes()
                if parse(raw).command != "DEL":
                    raise CniError(Code.INVALID_ENVIRONMENT, "only a DEL is ever queued")
            except (OSError, CniError) as error:
                _log.warning("a queued DEL makes no sense, put aside", path=str(path), error=str(error)[:300])
                with suppress(OSError):
                    path.rename(path.with_name(path.name + _BROKEN))
                continue
            answer = await self.answer(raw)
            if answer.startswith(b"0\n"):
                _log.info("a DEL from while no agent answered", endpoint=path.name)
                path.unlink(missing_ok=True)
            else:
                _log.warning("a queued DEL can't be done yet", path=str(path), answer=answer.decode(errors="replace")[:300])

    async def run(self) -> None:
        """For ever: the plugin queues also when an agent that runs did not answer in time."""
        while True:
            await self.drain()
            await asyncio.sleep(_DRAIN_SECONDS)
