"""`pilus-agent`: the process. Reads its settings, loads the datapath, wires sources to it, serves, and ends when told to.

Ending detaches nothing and empties nothing: what runs goes on without an agent.
"""

import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path

import click
import structlog

import pilus_maps
from pilus_agent import cni_install, host_state
from pilus_agent.attachments import AttachmentFiles
from pilus_agent.datapath import changes
from pilus_agent.datapath.changes import Ledger
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.programs import ensure_loaded
from pilus_agent.endpoint_objects import EndpointObjects
from pilus_agent.endpoints import Endpoints
from pilus_agent.facts import Address, Network
from pilus_agent.host_state import HostStateFile
from pilus_agent.ipam import Allocator
from pilus_agent.metrics import Metrics
from pilus_agent.objects import cilium_node, node_path, node_status, routers_of
from pilus_agent.publish import Publisher
from pilus_agent.server import Server
from pilus_agent.sources import kubernetes, netlink, services
from pilus_agent.sources.cni import CniSource
from pilus_agent.standalone import StandaloneAgent
from pilus_agent.views import Views
from pilus_agent.wiring import Wiring
from pilus_api import policies
from pilus_api import settings as settings_of
from pilus_api.connection import ApiError, Connection
from pilus_api.errors import InvalidError, PilusError
from pilus_api.label_filters import IdentityFilter
from pilus_api.label_prefixes import identity_filter
from pilus_api.listener import health_listener, metrics_listener, verdict
from pilus_api.live import LiveSettings, set_debug
from pilus_api.settings import KEYS, OPERATOR, Settings

_log = structlog.get_logger(__name__)

RUNTIME = Path("/run/pilus")
PINS = Path("/sys/fs/bpf/pilus")
STATE = Path("/var/lib/pilus")
SIZES = {"PILUS_ENDPOINTS_SIZE": 4096}
_RETRY_SECONDS = 1.0
# How often everything that the agent says in the API is written anew, changed or not.
_AGAIN_SECONDS = 300.0
# What came of a pass is told a little later: while a policy gets into force on every node at once, nothing else should run; and
# where one pass follows the other, it is told of some of them.
_TELL_SECONDS = 0.02
# When, after serving, what policies would wait for is done: the runtime, who has waited for us, is first.
_PREPARE_SECONDS = 2.0


class Agent:
    """One node's agent."""

    def __init__(
        self,
        node: str,
        settings: Settings,
        relevant: IdentityFilter,
        connection: Connection,
        kernel: Kernel,
        config: Path | None,
    ) -> None:
        self._node = node
        self._connection = connection
        self._kernel = kernel
        self.started = time.monotonic()
        self.version = version("pilus")
        self.wiring = Wiring(node, settings, kernel, api_server=connection.access.server, relevant=relevant)
        self._publisher = Publisher(connection)
        self._endpoints = Endpoints(kernel, AttachmentFiles(RUNTIME / "endpoints"), Allocator())
        self._cni = CniSource(self.wiring, self._endpoints, STATE / "cni-queue")
        self._live = LiveSettings(config, settings, self.wiring.reconfigure, frozenset(KEYS) - OPERATOR) if config else None
        self._views = Views(self.wiring, self.version, self.started, self._live)
        self._server = Server(RUNTIME / "agent.sock", self._cni.answer, self._views.answer)
        self._metrics = Metrics(self.version)
        self._metrics_at = settings.prometheus_serve_addr
        self._health_at = settings.agent_health_serve_addr
        self._serving = False
        self._rules: dict[str, str] = {}
        self._host_state = HostStateFile(STATE / host_state.NAME)
        self._ranges: tuple[Network, ...] = ()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            # Before anything is waited for: a kubelet ends what does not answer.
            if self._health_at:
                health = health_listener(self._health_at, lambda: "").also("/readyz", verdict(self._unready))
                tasks.create_task(health.run(), name="health")
            if self._live is not None:
                tasks.create_task(self._live.run(), name="settings")
            tasks.create_task(self._work(), name="work")

    async def _work(self) -> None:
        # First of all: without the pods that run, the first pass would take their rows out of the kernel.
        await self._endpoints.restore()
        for key, attachment in self._endpoints.attachments.items():
            self.wiring.put("attachments", key, attachment)
        self.wiring.synced("attachments")
        kinds: tuple[kubernetes.Kind, ...] = (*kubernetes.KINDS, *services.KINDS)
        if not self.wiring.settings.enable_node_selector_labels:  # nobody asks for others', and Nodes change often
            kinds = tuple(kubernetes.OWN_LABELS if kind.name == "nodelabels" else kind for kind in kinds)
        uid, addresses = await self._self()
        await self._server.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publisher.run(), name="publish")
                self._publisher.want(node_path(self._node), cilium_node(self._node, uid, addresses, await self._routers()))
                tasks.create_task(kubernetes.follow_all(self._connection, self._node, self.wiring, kinds), name="sources")
                tasks.create_task(self.wiring.run(), name="wiring")
                tasks.create_task(netlink.follow(self.wiring), name="netlink")
                if self._metrics_at:
                    tasks.create_task(metrics_listener(self._metrics_at, self._metrics.text).run(), name="metrics")
                tasks.create_task(self._serve(uid, addresses), name="serve")
        finally:
            await self._server.close()

    def _unready(self) -> str:
        """Why pods of this node can't get their network from us, "" if they can."""
        if self._serving and self.wiring.ready:
            return ""
        return "; ".join(trouble.message for trouble in self.wiring.trouble.values()) or "not everything has been heard yet"

    async def _self(self) -> tuple[str, tuple[Address, ...]]:
        """This node's Node object: its uid and addresses. Waits for it."""
        said = False
        while True:
            try:
                raw = await self._connection.get(f"/api/v1/nodes/{self._node}")
                entries = (raw.get("status") or {}).get("addresses") or []
                found = (kubernetes.address_of(entry.get("address")) for entry in entries if entry.get("type") == "InternalIP")
                addresses = tuple(address for address in found if address is not None)
                if addresses:
                    return str(raw["metadata"]["uid"]), addresses
                problem = f"node {self._node} has no InternalIP yet"
            except ApiError as error:
                problem = str(error)
            if not said:
                said = True
                _log.warning("this node's object can't be read yet, trying again", error=problem)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self, uid: str, addresses: tuple[Address, ...]) -> None:
        """Once everything has been told: what was before us, then the CNI configuration, then what changes."""
        await self.wiring.until(lambda: self.wiring.in_sync, float("inf"))
        await self.wiring.until(lambda: self.wiring.ready and bool(self.wiring.own_ranges), float("inf"))
        self._take_ranges(uid, addresses)
        await self._cni.drain()
        draining = asyncio.create_task(self._cni.run(), name="queued DELs")
        others = cni_install.install(Path(pilus_maps.__file__).parent.parent / "pilus_cni" / cni_install.PLUGIN)
        if others:
            _log.warning("other CNI configurations come before ours in the runtime's folder", files=others)
        self._serving = True
        _log.info("serving", node=self._node, ranges=[str(network) for network in self.wiring.own_ranges])
        asyncio.get_running_loop().call_later(_PREPARE_SECONDS, _prepare)
        again = time.monotonic()
        endpoints = EndpointObjects(self._publisher, self._node, next(iter(addresses), None))
        try:
            while True:
                before = self.wiring.passes
                self._take_ranges(uid, addresses)
                if time.monotonic() - again > _AGAIN_SECONDS:
                    again = time.monotonic()
                    self._publisher.again()
                self._publish(uid, endpoints)
                self._write_rules()
                await self._remember_host()
                self._metrics.update(self.wiring)
                await self.wiring.until(lambda before=before: self.wiring.passes != before, _AGAIN_SECONDS)  # type: ignore[misc]
                self._take_ranges(uid, addresses)  # at once: a range that has gone gives out no address
                await asyncio.sleep(_TELL_SECONDS)
        finally:
            draining.cancel()

    async def _routers(self) -> tuple[Address, ...]:
        """Our router addresses as an earlier agent made them known: taking them back for a while would cut others off."""
        try:
            return kubernetes.node_of(await self._connection.get(node_path(self._node))).routers
        except (ApiError, KeyError, TypeError, ValueError, AttributeError):
            return ()

    def _take_ranges(self, uid: str, addresses: tuple[Address, ...]) -> None:
        """This node's ranges as they are now: addresses are given out of these alone, and others are told the routers'."""
        ranges = self.wiring.own_ranges
        if ranges == self._ranges:
            return
        for network in self._ranges:
            if network not in ranges:
                self._endpoints.allocator.retire(network)
        for network in ranges:
            try:
                self._endpoints.allocator.add(network)
            except InvalidError as error:
                _log.error("no addresses are given out of a pod range", range=str(network), error=str(error))
        self._ranges = ranges
        self._publisher.want(node_path(self._node), cilium_node(self._node, uid, addresses, routers_of(ranges)))

    def _write_rules(self) -> None:
        """For the observer: what the rule numbers of events mean."""
        rules = self.wiring.policy.rules()
        if rules == self._rules:
            return
        scratch = RUNTIME / ".rules.json"
        scratch.write_text(json.dumps(rules))
        scratch.replace(RUNTIME / "rules.json")
        self._rules = rules

    async def _remember_host(self) -> None:
        """For the next boot (`pilus install --early`)."""
        links = self.wiring.links
        try:
            if links is not None:
                await self._host_state.write(self.wiring.desired, socket.if_indextoname(links.uplink_ifindex))
        except OSError as error:
            _log.warning("policies about this node can't be kept for its next boot", error=str(error))

    def _publish(self, uid: str, endpoints: EndpointObjects) -> None:
        held = self.wiring.endpoints
        endpoints.want(held, self.wiring.labels_of, self.wiring.ports_of)
        pods: dict[str, dict[str, object]] = {
            key: {"namespace": one.attachment.namespace, "name": one.attachment.pod, "uid": one.attachment.uid}
            for key, one in held.items()
        }
        told = self.wiring.policy.acknowledgements(self.wiring.unwritten, pods)
        status = node_status(self._node, uid, self.version, True, told)
        self._publisher.want(f"/apis/pilus.io/v1alpha1/pilusnodestatuses/{self._node}", status)


def _prepare() -> None:
    """What is known now mostly stays: with 1,000 policies the collector looks through it in 50 ms, time and again, and in 3 if it
    is kept out of its sight (pilus_agent.start has the same of what is imported)."""
    policies.prepare()
    gc.collect()
    gc.freeze()


async def _serve(
    node: str,
    settings: Settings,
    relevant: IdentityFilter,
    kubeconfig: Path | None,
    folder: Path | None,
    config: Path | None,
) -> None:
    datapath = await asyncio.to_thread(ensure_loaded, PINS, RUNTIME / "datapath.json", STATE / "cache", SIZES)
    kernel = Kernel(datapath, Ledger(STATE / changes.NAME))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        if folder is not None:
            await _until(stop, StandaloneAgent(node, settings, relevant, folder, kernel, RUNTIME, version("pilus")).run())
            return
        access = Connection.from_kubeconfig(kubeconfig) if kubeconfig else Connection.in_cluster(settings.k8s_api_server)
        async with access as connection:
            await _until(stop, Agent(node, settings, relevant, connection, kernel, config).run())
    finally:
        await kernel.close()


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run until told to end; what ends by itself has failed, and raises."""
    running = asyncio.create_task(work, name="agent")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@click.command()
@click.option("--node-name", required=True, help="the name of this node's Node object")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="how to reach the API server; without it as a pod does")
@click.option("--source-dir", type=click.Path(path_type=Path, file_okay=False), help="take manifests from here; no Kubernetes")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="the ConfigMap's keys: YAML, or a folder of files")
def main(node_name: str, kubeconfig: Path | None, source_dir: Path | None, config_file: Path | None) -> None:
    """The node agent: gives this node's pods their network, identity and policy."""
    try:
        settings = settings_of.load(config_file) if config_file else Settings()
        relevant = identity_filter(settings)
        set_debug(settings.debug)
        asyncio.run(_serve(node_name, settings, relevant, kubeconfig, source_dir, config_file))
    except PilusError as error:
        click.echo(f"pilus-agent: {error}", err=True)
        sys.exit(1)
