"""The agent without Kubernetes: the same wiring, fed by a directory; pods are network namespaces that exist already.

In: manifests. Out: the same kernel tables. A pod is connected when its manifest names a network namespace, and disconnected when
the manifest goes.
"""

import asyncio
import time
from pathlib import Path

import structlog

from pilus_agent.attachments import AttachmentFiles
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.endpoints import Endpoints
from pilus_agent.facts import Address
from pilus_agent.ipam import Allocator
from pilus_agent.objects import routers_of
from pilus_agent.server import Server
from pilus_agent.sources import netlink
from pilus_agent.sources.cni_request import CniError, Code, answer_error
from pilus_agent.sources.directory import DirectorySource
from pilus_agent.views import Views
from pilus_agent.wiring import NEEDED, Wiring
from pilus_api.errors import InvalidError, PilusError
from pilus_api.label_filters import IdentityFilter
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)
_KERNEL_SECONDS = 10.0
_INTERFACE = "eth0"


async def _no_cni(_: bytes) -> bytes:
    return answer_error(CniError(Code.NOT_AVAILABLE, "this agent takes its pods from a directory, not from a runtime"), "")


class StandaloneAgent:
    def __init__(
        self, node: str, settings: Settings, relevant: IdentityFilter, folder: Path, kernel: Kernel, runtime: Path, version: str
    ) -> None:
        self._node = node
        self._kernel = kernel
        # Nobody claims where nobody else is.
        self.wiring = Wiring(node, settings, kernel, NEEDED - {"claims"}, relevant=relevant)
        self._source = DirectorySource(folder, self.wiring, settings.cluster_name, relevant)
        self._endpoints = Endpoints(kernel, AttachmentFiles(runtime / "endpoints"), Allocator())
        views = Views(self.wiring, version, time.monotonic())
        self._server = Server(runtime / "agent.sock", _no_cni, views.answer)
        self._changed = asyncio.Event()
        self._failed: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        # First of all: without the pods that run, the first pass would take their rows out of the kernel.
        await self._endpoints.restore()
        for key, attachment in self._endpoints.attachments.items():
            self.wiring.put("attachments", key, attachment)
        self.wiring.synced("attachments")
        await self._server.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._source.run(self._changed), name="directory")
                tasks.create_task(self.wiring.run(), name="wiring")
                tasks.create_task(netlink.follow(self.wiring), name="netlink")
                tasks.create_task(self._connect(), name="connect")
        finally:
            await self._server.close()

    async def _connect(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            own = self.wiring.own
            if own is None or not own.ranges:
                _log.warning("no CiliumNode with podCIDRs for this node in the directory yet", node=self._node)
                continue
            for network in own.ranges:
                try:
                    self._endpoints.allocator.add(network)
                except InvalidError as error:
                    _log.error("no addresses are given out of a pod range", range=str(network), error=str(error))
            await self.wiring.until(lambda: self.wiring.ready, float("inf"))
            routers: dict[int, Address] = {address.version: address for address in routers_of(own.ranges)}
            for name in sorted(self._source.pods):
                await self._one(name, self._source.pods[name], routers)
            wanted = {_key(name) for name in self._source.pods}
            for key in set(self._endpoints.attachments) - wanted:
                await self._disconnect(key)

    async def _one(self, name: str, netns: str, routers: dict[int, Address]) -> None:
        key = _key(name)
        pod = self.wiring.facts.pods.get(name)
        links = self.wiring.links
        if key in self._endpoints.attachments or pod is None or links is None:
            return
        try:
            attachment = await self._endpoints.prepare(key, (pod.namespace, pod.name, pod.uid), netns, links.pod_mtu, routers)
            self.wiring.put("attachments", key, attachment)
            if not await self.wiring.until(lambda: self.wiring.settled(key), _KERNEL_SECONDS):
                raise PilusError("its rows did not get into the kernel: see `pilus status`")
            await self._endpoints.connect(attachment, routers)
        except PilusError as error:
            if self._failed.get(name) != str(error):
                self._failed[name] = str(error)
                _log.error("a pod of the directory can't be connected", pod=name, error=str(error))
            await self._disconnect(key)
            return
        self._failed.pop(name, None)
        _log.info("pod connected", pod=name, addresses=[str(address) for address in attachment.addresses])

    async def _disconnect(self, key: str) -> None:
        attachment = await self._endpoints.remove(key)
        if attachment is not None:
            self.wiring.put("attachments", key, None)
            await self.wiring.realise(_KERNEL_SECONDS)
            self._endpoints.forget(attachment)


def _key(pod: str) -> str:
    """Where a container's id stands for pods of a runtime, a directory's pod has its name."""
    return f"{pod.replace('/', '.')}/{_INTERFACE}"
