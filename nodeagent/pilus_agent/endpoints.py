"""CNI's side of an endpoint: addresses, link, number, file; made in order, undone in reverse.

In: what the runtime asks. Out: an Attachment that is in the kernel, or an error that says whether trying again helps. The order
at ADD: filter, rows, and only then the link goes up; so a pod never has a way out that is not watched.
"""

import asyncio
import hashlib
import os
import secrets
import time

import structlog

from pilus_agent.attachments import AttachmentFiles, Numbers, key_of
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.links import POD_LINKS, PodLink
from pilus_agent.datapath.node import attach, strangers
from pilus_agent.facts import Address, Attachment
from pilus_agent.ipam import Allocator, HeldError
from pilus_api.errors import PilusError, TemporaryError

_log = structlog.get_logger(__name__)


class NotReadyError(TemporaryError):
    """The agent can't make pods yet; CNI's code 11."""


class PodNamespaceError(PilusError):
    """The pod's network namespace is not there."""


def link_name(key: str) -> str:
    """At most 15 characters, the same for the same container and interface."""
    return POD_LINKS + hashlib.sha256(key.encode()).hexdigest()[:12]


def _mac() -> str:
    """Locally administered, unicast."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))


class Endpoints:
    """Makes and removes attachments. `attachments` is all there are."""

    def __init__(self, kernel: Kernel, files: AttachmentFiles, allocator: Allocator) -> None:
        self._kernel = kernel
        self._files = files
        self.allocator = allocator
        self._numbers = Numbers()
        self.attachments: dict[str, Attachment] = {}
        self._deleting: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """What an earlier agent made, as far as its links are still there."""
        links = {link.container: link for link in await self._kernel.call(lambda: self._kernel.netlink().pod_links())}
        for key, attachment in self._files.read().items():
            link = links.get(key)
            if link is None or link.ifindex != attachment.ifindex:
                _log.info("an endpoint's link went while no agent ran", endpoint=key)
                self._files.remove(attachment, time.monotonic())
                continue
            try:
                for address in attachment.addresses:
                    self.allocator.reserve(key, address)
            except HeldError as error:
                _log.warning("an endpoint's file contradicts another, left out", endpoint=key, error=str(error))
                self.allocator.release(key, time.monotonic())
                self._files.remove(attachment, time.monotonic())
                continue
            self._numbers.hold(attachment.number)
            self.attachments[key] = attachment
        for address, since in self._files.released(time.monotonic() - self.allocator.rest).items():
            self.allocator.rest_since(address, since)
        for link in strangers(list(links.values()), set(self.attachments)):
            _log.info("a link of a pod that nobody knows, removed", link=link.name, container=link.container)
            await self._kernel.call(self._delete_link, link)

    def _delete_link(self, link: PodLink) -> None:
        self._kernel.netlink().delete(link.name)

    async def prepare(self, key: str, pod: tuple[str, str, str], netns: str, mtu: int, routers: dict[int, Address]) -> Attachment:
        """Everything but the kernel's rows; the link stays down. `pod`: namespace, name, uid. Doing it twice gives the same."""
        held = self.attachments.get(key)
        if held is not None:
            return held
        container, _, interface = key.rpartition("/")
        addresses = self.allocator.allocate(key, time.monotonic())
        number = self._numbers.take()
        name = link_name(key)
        macs = (_mac(), _mac())
        try:
            ifindex = await self._kernel.call(self._make, name, key, netns, interface, macs, mtu, addresses, routers)
            attachment = Attachment(container, interface, *pod, netns, name, ifindex, macs[1], macs[0], tuple(addresses), number)
            self._files.write(attachment)
        except BaseException:
            self._numbers.give_back(number)
            self.allocator.release(key, time.monotonic())
            await self._kernel.call(lambda: self._kernel.netlink().delete(name))
            raise
        self.attachments[key] = attachment
        return attachment

    def _make(
        self, name: str, key: str, netns: str, interface: str, macs: tuple[str, str], mtu: int,
        addresses: tuple[Address, ...], routers: dict[int, Address],
    ) -> int:  # fmt: skip
        netlink = self._kernel.netlink()
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PodNamespaceError(f"can't open the pod's network namespace {netns}: {error.strerror}") from error
        try:
            netlink.delete(name)  # what an ADD that died has left
            ifindex = netlink.create_pod_link(name, key, fd, interface, macs, mtu)
            attach(netlink, self._kernel.datapath, ifindex, "pod")
            netlink.configure_pod(fd, interface, addresses, routers)
        finally:
            os.close(fd)
        return ifindex

    async def connect(self, attachment: Attachment, routers: dict[int, Address]) -> None:
        """The link goes up: the rows are in the kernel."""
        await self._kernel.call(
            lambda: self._kernel.netlink().connect_pod(attachment.ifindex, attachment.mac, attachment.addresses, routers)
        )

    async def remove(self, key: str) -> Attachment | None:
        """The link goes down at once, and away when nobody waits for it (18 ms); one that nobody knows goes at once. Idempotent."""
        known = self.attachments.get(key)
        if known is None:
            await self._kernel.call(lambda: self._kernel.netlink().delete(link_name(key)))
        else:
            await self._kernel.call(lambda: self._kernel.netlink().set_down(known.link))
        # Only now: what fails above is asked for again, and `restore` may have found it meanwhile.
        attachment = self.attachments.pop(key, None)
        if attachment is not None:
            self._files.remove(attachment, time.monotonic())
            self._files.released(time.monotonic() - self.allocator.rest)  # those that have rested need no file any more
        return attachment

    def forget(self, attachment: Attachment) -> None:
        """After its rows have left the kernel: addresses and number may be given again, the link goes."""
        self._numbers.give_back(attachment.number)
        self.allocator.release(key_of(attachment), time.monotonic())
        self._later(attachment.link)

    def _later(self, name: str) -> None:
        async def delete() -> None:
            await self._kernel.call(lambda: self._kernel.netlink().delete(name))

        task = asyncio.create_task(delete(), name=f"delete {name}")
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
