"""Services by socket hooks: real sockets in a network namespace and a cgroup of the test's own, and the kernel's own answers.

The rows come from the agent's own stages, so what is tested is the way from a Service to a connection.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests.packets.…`, also where pytest is not started with -m

from tests.loaded import loaded
from tests.packets.harness import cgroups, netns

from pilus_agent.datapath import cgroup
from pilus_agent.datapath.programs import ensure_loaded
from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_agent.service_stage import TABLES, ServiceStage
from pilus_agent.tables import Tables
from pilus_maps import Datapath, syscall

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

NODE = "n1"
TCP, UDP = 6, 17
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
FRONTENDS = {4: "10.96.0.10", 6: "fd00:96::10"}
BACKENDS = {4: ("10.9.0.1", "10.9.0.2", "10.9.0.3"), 6: ("fd00:9::1", "fd00:9::2", "fd00:9::3")}
PORT, TARGET = 80, 8080
MAPPED = "::ffff:"
CONFIG = {"PILUS_REVERSE_SIZE": 4096}


# -- the world -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    with loaded("sockets", tmp_path_factory.mktemp("datapath"), CONFIG) as made:
        yield made


@pytest.fixture(scope="module")
def attached(datapath: Datapath) -> Iterator[Path]:
    """The cgroup folder, with every program on it."""
    with cgroups.inside(f"pilus-sockets-{os.getpid()}") as folder:
        try:
            cgroup.attach(datapath, folder)
            yield folder
        finally:
            cgroup.detach(cgroup.links_folder(datapath))


class Backends:
    """Servers on loopback that answer who they are and whom they answered."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self, version: int, address: str, port: int = TARGET) -> None:
        for kind, serve in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._answer)):
            held = socket.socket(FAMILIES[version], kind)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((address, port))
            if kind == socket.SOCK_STREAM:
                held.listen(512)
            self._sockets.append(held)
            thread = threading.Thread(target=serve, args=(held, address.encode()), daemon=True)
            thread.start()
            self._threads.append(thread)

    @staticmethod
    def _accept(held: socket.socket, name: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = held.accept()
                with client, contextlib.suppress(OSError):
                    client.sendall(name)

    @staticmethod
    def _answer(held: socket.socket, name: bytes) -> None:
        with contextlib.suppress(OSError):
            while sender := held.recvfrom(2048)[1]:  # none after a shutdown
                held.sendto(name, sender)

    def close(self) -> None:
        for held in self._sockets:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture(scope="module", autouse=True)
def network(attached: Path) -> Iterator[None]:
    """A namespace whose loopback has every backend; this thread stays in it."""
    namespace = netns.fresh()
    try:
        with netns.inside(namespace):
            with IPRoute() as ip:
                ip.link("set", index=1, state="up")
                for version, addresses in BACKENDS.items():
                    for address in addresses:
                        ip.addr("add", index=1, address=address, prefixlen=32 if version == 4 else 128, family=FAMILIES[version])
            backends = Backends()
            try:
                for version, addresses in BACKENDS.items():
                    for address in addresses:
                        backends.start(version, address)
                yield
            finally:
                backends.close()
    finally:
        os.close(namespace)


@dataclass
class Services:
    """The agent's stage, and writing what it wants in the agent's order."""

    datapath: Datapath
    stage: ServiceStage = field(init=False)
    tables: Tables = field(init=False)

    def __post_init__(self) -> None:
        self.stage = ServiceStage(NODE)
        self.tables = Tables.of(self.datapath.description["maps"])
        for name in (*TABLES, "reverse"):
            self.datapath.map(name).clear()

    def serve(self, *endpoints: ServiceEndpoint, version: int = 4, **fields: Any) -> None:
        ports = tuple(ServicePort(name, number, PORT) for name, number in (("tcp", TCP), ("udp", UDP)))
        targets = tuple(ServicePort(port.name, port.protocol, TARGET) for port in ports)
        address = ip_address(FRONTENDS[version])
        name = f"web{version}"
        self.stage.put("services", f"default/{name}", Service("default", name, "ClusterIP", (address,), ports, **fields))
        self.stage.put("endpointslices", f"default/{name}-1", EndpointSlice(f"default/{name}", targets, endpoints))
        self.write()

    def write(self) -> None:
        self.stage.settle(self.tables)
        for name in TABLES:
            tracker = self.tables.trackers[name]
            rows = dict(tracker.updates)
            self.datapath.map(name).update_raw(rows)
            tracker.wrote(rows)

    def sweep(self) -> None:
        for name in reversed(TABLES):
            tracker = self.tables.trackers[name]
            keys = list(tracker.deletes)
            self.datapath.map(name).delete_raw(keys)
            tracker.removed(keys)
        self.stage.swept()

    def counts(self) -> Mapping[str, int]:
        """`hook result` -> how often, without what is zero."""
        hooks, results = (self.datapath.enum(f"pilus_socket_{what}") for what in ("hook", "result"))
        per_cpu = self.datapath.map("socket_counts")
        found = {
            f"{hook} {result}".replace("PILUS_SOCKET_", "").lower(): sum(per_cpu.lookup(place * 8 + number))
            for hook, place in hooks.items()
            for result, number in results.items()
        }
        return {name: count for name, count in found.items() if count}


@pytest.fixture
def services(datapath: Datapath) -> Services:
    return Services(datapath)


def ends(version: int, *indices: int, **said: Any) -> list[ServiceEndpoint]:
    return [ServiceEndpoint(ip_address(BACKENDS[version][index]), **said) for index in indices]


@dataclass(frozen=True)
class Client:
    """How a client asks: with a socket of `version`, for an address as that socket writes it."""

    version: int  # the socket's
    service: int  # the service's

    def show(self, address: str) -> str:
        return MAPPED + address if self.version != self.service else address

    @property
    def frontend(self) -> str:
        return self.show(FRONTENDS[self.service])

    @property
    def backends(self) -> set[str]:
        return {self.show(address) for address in BACKENDS[self.service]}

    def socket(self, kind: int, protocol: int = 0) -> socket.socket:
        made = socket.socket(FAMILIES[self.version], kind, protocol)
        made.settimeout(5)
        return made


CLIENTS = [Client(4, 4), Client(6, 6), Client(6, 4)]


@pytest.fixture(params=CLIENTS, ids=["v4", "v6", "mapped"])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    return chosen


# -- TCP -------------------------------------------------------------------------------------------------------------------


def test_a_connection_reaches_a_backend_and_sees_the_frontend(services: Services, client: Client) -> None:
    services.serve(*ends(client.service, 0, 1, 2), version=client.service)
    met = set()
    for _ in range(60):
        with client.socket(socket.SOCK_STREAM) as held:
            held.connect((client.frontend, PORT))
            assert held.getpeername()[:2] == (client.frontend, PORT)
            met.add(held.recv(64).decode())
    assert met == set(BACKENDS[client.service])


def test_mptcp_is_tcp(services: Services) -> None:
    services.serve(*ends(4, 0))
    try:
        held = CLIENTS[0].socket(socket.SOCK_STREAM, 262)
    except OSError as error:
        pytest.skip(f"no MPTCP here: {error}")
    with held:
        held.connect((FRONTENDS[4], PORT))
        assert held.recv(64).decode() == BACKENDS[4][0]


# -- UDP -------------------------------------------------------------------------------------------------------------------


def test_a_datagram_is_answered_by_the_frontend(services: Services, client: Client) -> None:
    services.serve(*ends(client.service, 0, 1, 2), version=client.service)
    with client.socket(socket.SOCK_DGRAM) as held:
        met = set()
        for _ in range(20):
            held.sendto(b"who", (client.frontend, PORT))
            answer, sender = held.recvfrom(64)
            assert sender[:2] == (client.frontend, PORT)
            met.add(answer)
    assert len(met) == 1  # one socket stays with one backend


def test_sockets_spread(services: Services, client: Client) -> None:
    services.serve(*ends(client.service, 0, 1, 2), version=client.service)
    met = set()
    for _ in range(60):
        with client.socket(socket.SOCK_DGRAM) as held:
            held.connect((client.frontend, PORT))
            assert held.getpeername()[:2] == (client.frontend, PORT)
            held.send(b"who")
            answer, sender = held.recvfrom(64)
            assert sender[:2] == (client.frontend, PORT)
            met.add(answer.decode())
    assert met == set(BACKENDS[client.service])


def test_a_socket_that_turns_to_a_backend_itself_sees_the_backend(services: Services, client: Client) -> None:
    services.serve(*ends(client.service, 0), version=client.service)
    backend = client.show(BACKENDS[client.service][0])
    with client.socket(socket.SOCK_DGRAM) as held:
        held.connect((client.frontend, PORT))
        assert held.getpeername()[:2] == (client.frontend, PORT)
        held.connect((backend, TARGET))
        assert held.getpeername()[:2] == (backend, TARGET)


def test_one_socket_and_two_services_with_the_same_backends(services: Services) -> None:
    """The last that was asked answers; nobody can tell a backend's datagrams apart."""
    services.serve(*ends(4, 0))
    other = ip_address("10.96.0.11")
    services.stage.put(
        "services", "default/other", Service("default", "other", "ClusterIP", (other,), (ServicePort("u", UDP, 53),))
    )
    services.stage.put(
        "endpointslices", "default/o", EndpointSlice("default/other", (ServicePort("u", UDP, TARGET),), tuple(ends(4, 0)))
    )
    services.write()
    with CLIENTS[0].socket(socket.SOCK_DGRAM) as held:
        for frontend in ((FRONTENDS[4], PORT), (str(other), 53), (FRONTENDS[4], PORT)):
            held.sendto(b"who", frontend)
            assert held.recvfrom(64)[1] == frontend


# -- nobody there ----------------------------------------------------------------------------------------------------------


def test_no_backend_refuses(services: Services, client: Client) -> None:
    services.serve(version=client.service)
    before = services.counts()
    with client.socket(socket.SOCK_STREAM) as held, pytest.raises(ConnectionRefusedError):
        held.connect((client.frontend, PORT))
    with client.socket(socket.SOCK_DGRAM) as held, pytest.raises(ConnectionRefusedError):
        held.connect((client.frontend, PORT))
    with client.socket(socket.SOCK_DGRAM) as held, pytest.raises(ConnectionRefusedError):
        held.sendto(b"who", (client.frontend, PORT))
    after = services.counts()
    assert after["connect no_backend"] - before.get("connect no_backend", 0) == 2
    assert after["send no_backend"] - before.get("send no_backend", 0) == 1


def test_another_port_of_the_address_refuses(services: Services, client: Client) -> None:
    """Nothing of a service's address leaks out, to where anybody might answer."""
    services.serve(*ends(client.service, 0), version=client.service)
    before = services.counts()
    with client.socket(socket.SOCK_STREAM) as held, pytest.raises(ConnectionRefusedError):
        held.connect((client.frontend, PORT + 1))
    assert services.counts()["connect no_port"] - before.get("connect no_port", 0) == 1


def test_what_is_no_service_is_left_alone(services: Services, client: Client) -> None:
    before = services.counts()
    with client.socket(socket.SOCK_STREAM) as held:
        address = client.show(BACKENDS[client.service][1])
        held.connect((address, TARGET))
        assert held.getpeername()[:2] == (address, TARGET)
        assert held.recv(64).decode() == BACKENDS[client.service][1]
    after = services.counts()
    assert after["connect untouched"] - before.get("connect untouched", 0) == 1
    assert after["peer untouched"] - before.get("peer untouched", 0) == 2  # and the server's accept() asks too


def test_terminating_backends_serve_where_nobody_else_does(services: Services) -> None:
    ending = {"ready": False, "serving": True, "terminating": True}
    services.serve(*ends(4, 0, **ending), *ends(4, 1))
    assert _ask(10) == {BACKENDS[4][1]}
    services.serve(*ends(4, 0, **ending))
    assert _ask(10) == {BACKENDS[4][0]}


def test_a_local_service_is_served_by_this_node_alone(services: Services) -> None:
    services.serve(*ends(4, 0, node=NODE), *ends(4, 1, 2, node="n2"), local_only=True)
    assert _ask(20) == {BACKENDS[4][0]}
    services.serve(*ends(4, 1, 2, node="n2"), local_only=True)
    with pytest.raises(ConnectionRefusedError):
        _ask(1)


def _ask(times: int) -> set[str]:
    met = set()
    for _ in range(times):
        with CLIENTS[0].socket(socket.SOCK_STREAM) as held:
            held.connect((FRONTENDS[4], PORT))
            met.add(held.recv(64).decode())
    return met


# -- switching -------------------------------------------------------------------------------------------------------------


def test_backends_are_switched_whole_under_load(services: Services) -> None:
    """Connections at full speed while backends change: every one meets a backend of its own service, none is refused."""
    web, api = BACKENDS[4][:2], BACKENDS[4][2:]
    services.serve(*ends(4, 0))
    address = ip_address("10.96.0.12")
    port = (ServicePort("t", TCP, 443),)
    services.stage.put("services", "default/api", Service("default", "api", "ClusterIP", (address,), port))
    target = (ServicePort("t", TCP, TARGET),)
    stop = threading.Event()
    bad: list[object] = []
    done = [0, 0]

    namespace = netns.own()

    def load(index: int, frontend: tuple[str, int], allowed: tuple[str, ...]) -> None:
        with netns.inside(namespace):
            while not stop.is_set():
                try:
                    with CLIENTS[0].socket(socket.SOCK_STREAM) as held:
                        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT: ports last
                        held.connect(frontend)
                        met = held.recv(64).decode()
                        if met not in allowed:
                            bad.append((frontend, met))
                except OSError as error:
                    bad.append(error)
                done[index] += 1

    try:
        services.stage.put("endpointslices", "default/api-1", EndpointSlice("default/api", target, tuple(ends(4, 2))))
        services.write()
        threads = [
            threading.Thread(target=load, args=(0, (FRONTENDS[4], PORT), web)),
            threading.Thread(target=load, args=(1, (str(address), 443), api)),
        ]
        for thread in threads:
            thread.start()
        switches = 0
        began = time.monotonic()
        swept = began
        try:
            while time.monotonic() - began < 3:
                chosen = ((0,), (1,), (0, 1))[switches % 3]
                services.serve(*ends(4, *chosen))
                services.stage.put("endpointslices", "default/api-1", EndpointSlice("default/api", target, tuple(ends(4, 2))))
                services.write()
                switches += 1
                time.sleep(0.0005)  # the clients' turn: one interpreter runs them all
                if time.monotonic() - swept > 1:  # as the agent: what nobody names goes a second later
                    swept = time.monotonic()
                    time.sleep(0.05)
                    services.sweep()
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
    finally:
        os.close(namespace)
    print(f"{switches} switches, {sum(done)} connections")
    assert bad == []
    assert switches > 100
    assert min(done) > 100


# -- attaching -------------------------------------------------------------------------------------------------------------


def test_a_second_agent_attaches_nothing(datapath: Datapath, attached: Path) -> None:
    assert cgroup.attach(datapath, attached) == []


def test_what_was_taken_away_comes_back(services: Services, datapath: Datapath, attached: Path) -> None:
    services.serve(*ends(4, 0))
    links = cgroup.links_folder(datapath)
    (links / "socket_connect4").unlink()
    deadline = time.monotonic() + 5
    while _connects() and time.monotonic() < deadline:  # the kernel takes a link off a little after its last pin goes
        time.sleep(0.01)
    assert not _connects()
    assert cgroup.attach(datapath, attached) == ["socket_connect4"]
    assert _connects()


def _connects() -> bool:
    """There is no way to the frontend but through a backend."""
    try:
        return _ask(1) == {BACKENDS[4][0]}
    except OSError:
        return False


def test_an_upgrade_replaces_the_programs_and_keeps_the_links(
    services: Services, datapath: Datapath, attached: Path, tmp_path: Path
) -> None:
    services.serve(*ends(4, 0))
    links = cgroup.links_folder(datapath)
    before = _link_numbers(links)
    with ensure_loaded(links.parent, tmp_path / "datapath.json", tmp_path, CONFIG | {"PILUS_BUCKETS_SIZE": 2048}) as newer:
        assert newer.hash != datapath.hash
        try:
            assert len(cgroup.attach(newer, attached)) == 8
            assert _link_numbers(links) == before
            assert _ask(1) == {BACKENDS[4][0]}  # the newer programs read the same tables
        finally:
            assert len(cgroup.attach(datapath, attached)) == 8


def _link_numbers(links: Path) -> dict[str, int]:
    found = {}
    for pin in links.iterdir():
        link = syscall.open_pin(str(pin))
        try:
            found[pin.name] = syscall.link_info(link)["id"]
        finally:
            os.close(link)
    return found


def test_a_link_of_a_folder_that_is_gone_is_made_anew(datapath: Datapath, attached: Path) -> None:
    folder = attached / "gone"
    folder.mkdir()
    assert len(cgroup.attach(datapath, folder)) == 8
    folder.rmdir()
    assert len(cgroup.attach(datapath, attached)) == 8
    assert cgroup.attach(datapath, attached) == []


def test_a_stranger_among_the_links_goes(datapath: Datapath, attached: Path) -> None:
    links = cgroup.links_folder(datapath)
    held = syscall.open_pin(str(links / "socket_connect4"))
    try:
        syscall.pin(held, str(links / "socket_of_old"))
    finally:
        os.close(held)
    cgroup.attach(datapath, attached)
    assert not (links / "socket_of_old").exists()


def test_detaching_leaves_nothing(datapath: Datapath, attached: Path) -> None:
    try:
        assert len(cgroup.detach(cgroup.links_folder(datapath))) == 8
        assert cgroup.detach(cgroup.links_folder(datapath)) == []
    finally:
        cgroup.attach(datapath, attached)


# -- restart ---------------------------------------------------------------------------------------------------------------


def test_a_restarted_agent_writes_nothing(services: Services) -> None:
    services.serve(*ends(4, 0, 1))
    after = ServiceStage(NODE)
    tables = Tables.of(services.datapath.description["maps"])
    held = {name: services.datapath.map(name).items_raw() for name in TABLES}
    for name, rows in held.items():
        tables.trackers[name].hold_all(rows)
    after.restore(held, tables)
    service = services.stage._table.services["default/web4"]
    after.put("services", "default/web4", service)
    targets = tuple(ServicePort(port.name, port.protocol, TARGET) for port in service.ports)
    after.put("endpointslices", "default/web4-1", EndpointSlice("default/web4", targets, tuple(ends(4, 1, 0))))
    after.settle(tables)
    assert all(tables.trackers[name].settled for name in TABLES)
