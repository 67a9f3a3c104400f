"""The observer as a process, on the real programs: a packet is dropped, and its event, its count and the API tell of it."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pilus_cli.client import AskError, ask, stream
from pilus_maps import Datapath
from pilus_observer import sweep

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PINS = Path("/sys/fs/bpf/observer-test")
INVALID_SOURCE_IP = 132
ENOUGH = 20.0
# From an address that no endpoint has: Ethernet, IPv4, UDP 4000 -> 53.
FRAME = bytes.fromhex("020000000001020000000002 0800 4500001c000000004011 0000 0a000005 0a000006 0fa0003500080000".replace(" ", ""))


def load(folder: Path) -> Path:
    description = folder / "datapath.json"
    subprocess.run(
        ["/usr/bin/python3", "-I", ROOT / "nodeagent/pilus_agent/datapath/loader.py", "--source", ROOT / "bpf", "--pins", PINS,
         "--description", description, "--cache", folder / "cache"],
        check=True, capture_output=True,
    )  # fmt: skip
    return description


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` says once it says something."""
    end = time.monotonic() + ENOUGH
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {ENOUGH:.0f} s: {what}")


class Node:
    """One observer and the datapath under it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket, self.rules = folder / "observer.sock", folder / "rules.json"
        self.config = folder / "config.yaml"
        self.config.write_text("debug: true\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.metrics = f"127.0.0.1:{free.getsockname()[1]}"

    @contextmanager
    def observer(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pilus_observer.main", "--node-name", "n", "--config", self.config, "--description",
                 self.folder / "datapath.json", "--socket", self.socket, "--agent", self.folder / "agent.sock",
                 "--rules", self.rules, "--metrics", self.metrics],
                stderr=log,
            )  # fmt: skip
        try:
            until(lambda: self.socket.exists() or process.poll() is not None, "the socket")
            assert process.poll() is None, (self.folder / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()

    def events(self) -> list[dict[str, Any]]:
        return list(stream(self.socket, "observer", {"get": "events", "last": 4096}))

    def told(self, count: int) -> bool:
        return len(self.events()) == count

    def counters(self) -> dict[str, Any]:
        try:
            return dict(ask(self.socket, {"get": "counters"}, "observer"))
        except AskError:  # nothing is loaded yet
            return {}

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    shutil.rmtree(PINS, ignore_errors=True)
    try:
        yield Node(tmp_path)
    finally:
        shutil.rmtree(PINS, ignore_errors=True)


def make_ready(datapath: Datapath) -> None:
    ready = datapath.enum("pilus_setting")["PILUS_SETTING_READY"]
    datapath.map("settings").update(0, {"flags": ready, "event_rate": 1000, "event_burst": 1000})


def drop(datapath: Datapath, times: int = 1) -> None:
    action, _, _ = datapath.program("pod_from").test_run(FRAME, repeat=times)
    assert action == 2


def test_a_dropped_packet_is_told(node: Node) -> None:
    node.rules.write_text("{}")
    with Datapath.open(load(node.folder)) as datapath, node.observer():
        make_ready(datapath)
        until(node.counters, "an answer")
        with socket.socket(socket.AF_UNIX) as follower:
            follower.connect(str(node.socket))
            follower.settimeout(ENOUGH)
            follower.sendall(b'{"get": "events", "last": 0, "follow": true}\n')
            before = time.time()
            drop(datapath)
            event = json.loads(follower.makefile("rb").readline())
        assert event.pop("time") == pytest.approx(before, abs=5)
        end = {"identity": 0, "labels": [], "name": None}
        assert event == {
            "verdict": "DROPPED", "reason": "Invalid source ip", "reason_number": INVALID_SOURCE_IP, "direction": "egress",
            "hook": "pod_from", "family": 4, "protocol": "UDP", "source": {"address": "10.0.0.5", "port": 4000, **end},
            "destination": {"address": "10.0.0.6", "port": 53, **end}, "endpoint": None, "rule": None, "nearest": None,
            "suppressed": 0,
        }  # fmt: skip
        assert [past["reason_number"] for past in node.events()] == [INVALID_SOURCE_IP]

        drop(datapath, 41)
        [counted] = node.counters()["drops"]
        assert counted == {
            "reason": "Invalid source ip", "number": INVALID_SOURCE_IP, "hook": "pod_from", "direction": "egress",
            "packets": 42, "bytes": 42 * len(FRAME),
        }  # fmt: skip
        until(lambda: len(node.events()) == 42, "all events")
        text = node.scrape()
        assert 'pilus_drop_packets_total{direction="EGRESS",reason="Invalid source ip"} 42.0' in text
        assert 'hubble_drop_total{protocol="UDP",reason="INVALID_SOURCE_IP"} 42.0' in text
        assert not list(stream(node.socket, "observer", {"get": "flows"}))


def test_it_waits_for_the_datapath_and_follows_a_new_one(node: Node) -> None:
    with node.observer():
        assert node.events() == []
        assert node.counters() == {}
        for _ in range(2):  # the second time under other pins, which have counted nothing yet
            with Datapath.open(load(node.folder)) as datapath:
                make_ready(datapath)
                seen = len(node.events())
                drop(datapath)
                until(partial(node.told, seen + 1), "the event of the new datapath")
                assert [found["packets"] for found in node.counters()["drops"]] == [1]
            shutil.rmtree(PINS)


def test_it_stops_when_told_and_goes_on_where_it_was(node: Node) -> None:
    with Datapath.open(load(node.folder)) as datapath:
        make_ready(datapath)
        with node.observer() as process:
            until(node.counters, "an answer")
            with socket.socket(socket.AF_UNIX) as follower:
                follower.connect(str(node.socket))
                follower.sendall(b'{"get": "events", "follow": true}\n')
                process.send_signal(signal.SIGTERM)
                assert process.wait(ENOUGH) == 0
                assert follower.recv(1) == b""
            assert not node.socket.exists()
        drop(datapath, 3)
        with node.observer():
            until(lambda: len(node.events()) == 3, "events from while nobody looked")


def test_a_second_one_does_not_take_the_first_ones_events(node: Node) -> None:
    with node.observer():
        second = subprocess.run(
            [sys.executable, "-m", "pilus_observer.main", "--node-name", "n", "--config", node.config, "--socket", node.socket,
             "--metrics", ""],
            check=False, capture_output=True, timeout=ENOUGH,
        )  # fmt: skip
        assert second.returncode == 1
        assert b"another observer serves" in second.stderr
        assert node.events() == []


def test_only_root_is_answered(node: Node) -> None:
    with node.observer():
        assert node.socket.stat().st_mode & 0o777 == 0o600
        os.chmod(node.socket, 0o666)  # noqa: PTH101, S103  # even so
        for folder in (node.folder, *node.folder.parents):
            if folder.stat().st_uid == os.getuid() and folder != folder.parent and folder.is_relative_to("/tmp/pytest-of-root"):
                folder.chmod(0o755)
        request = (
            "import socket, sys; c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]);"
            'c.sendall(b\'{"get": "events"}\\n\'); print(c.recv(4096).decode())'
        )
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", request, node.socket], check=True, capture_output=True, user=65534, timeout=ENOUGH
        )
        assert json.loads(asked.stdout)["error"] == "only user id 0 is answered"


def field(name: str, offset: int, size: int) -> dict[str, Any]:
    return {"name": name, "offset": offset, "size": size, "count": 0, "network": False, "fields": None}


FLOW = {"size": 32, "fields": [field("packets", 0, 8), field("bytes", 8, 8), field("state", 16, 4), field("last_seen", 20, 4),
                               field("endpoint", 24, 4), field("pair_zone", 28, 4)]}  # fmt: skip
KEY = {"size": 4, "fields": [field("zone", 0, 1), field("pad", 1, 1), field("number", 2, 2)]}
BARE = {"size": 4, "fields": [field("", 0, 4)]}
QUOTA = {"size": 8, "fields": [field("used", 0, 4), field("refused", 4, 4)]}
TIMEOUTS = {"size": 16, "fields": [field("timeout", 0, 4) | {"count": 4}]}
ONE_WAY, OTHER_WAY = 1, 2


def made_up(kinds: dict[str, tuple[str, dict[str, Any], int]]) -> Datapath:
    """Maps without programs: name -> type, layout of the value, size."""
    PINS.mkdir()
    maps = {}
    for name, (kind, value, size) in kinds.items():
        pin = str(PINS / name)
        subprocess.run(
            ["bpftool", "map", "create", pin, "type", kind, "key", "4", "value", str(value["size"]), "entries", str(size),
             "name", name],
            check=True,
        )  # fmt: skip
        key = KEY if value is FLOW else BARE
        maps[name] = {"type": kind, "key": key, "value": value, "max_entries": size, "pin": pin}
    return Datapath({"version": 1, "hash": "made up", "maps": maps, "enums": {}, "texts": {}})


def flow(state: int, last_seen: int, endpoint: int, pair_zone: int = OTHER_WAY) -> dict[str, int]:
    return {"packets": 2, "bytes": 200, "state": state, "last_seen": last_seen, "endpoint": endpoint, "pair_zone": pair_zone}


def test_the_sweep_deletes_what_has_expired_and_recounts_quotas(node: Node) -> None:
    now, syn, established, closing = 100_000, 0, 1, 2
    kinds = {"flows": ("hash", FLOW, 8192), "embryonic": ("lru_hash", FLOW, 8192), "quotas": ("array", QUOTA, 16),
             "settings": ("array", TIMEOUTS, 1)}  # fmt: skip
    with made_up(kinds) as datapath:
        datapath.map("settings").update(0, {"timeout": (0, 500, 0, 0)})
        flows, embryonic, quotas = (datapath.map(name) for name in ("flows", "embryonic", "quotas"))

        def held() -> list[tuple[int, int]]:
            return sorted((key["zone"], key["number"]) for key, _ in flows.items())

        for number in range(3000):  # more than a batch: one of three has expired
            flows.update({"zone": ONE_WAY, "number": number}, flow(established, now - 499 - number % 3, 1 + number % 2))
        flows.update({"zone": ONE_WAY, "number": 5000}, flow(closing, now - 11, 3))
        flows.update({"zone": ONE_WAY, "number": 6000}, flow(established, now - 900, 4))  # listens
        flows.update({"zone": OTHER_WAY, "number": 6000}, flow(established, now, 4, ONE_WAY))  # talks
        for zone, pair in ((ONE_WAY, OTHER_WAY), (OTHER_WAY, ONE_WAY)):  # both silent
            flows.update({"zone": zone, "number": 7000}, flow(established, now - 900, 4, pair))
        embryonic.update({"zone": ONE_WAY, "number": 1}, flow(syn, now - 60, 1))
        embryonic.update({"zone": ONE_WAY, "number": 2}, flow(syn, now - 61, 1))
        quotas.update(1, {"used": 77, "refused": 9})
        quotas.update(3, {"used": 1})
        done = {swept.table: swept for swept in sweep.sweep(datapath, lambda: now)}
        assert (done["flows"].entries, done["flows"].packets, done["flows"].bytes) == (1003, 2006, 200_600)
        assert done["embryonic"].entries == 1
        stay = [(ONE_WAY, number) for number in range(3000) if number % 3 < 2]
        assert held() == [*stay, (ONE_WAY, 6000), (OTHER_WAY, 6000)]
        assert [key["number"] for key, _ in embryonic.items()] == [1]
        assert {number: row for number, row in quotas.items() if any(row.values())} == {
            1: {"used": 1000, "refused": 9}, 2: {"used": 1000, "refused": 0}, 4: {"used": 2, "refused": 0},
        }  # fmt: skip
        assert [swept.entries for swept in sweep.sweep(datapath, lambda: now)] == [0, 0]


def test_the_sweep_of_a_datapath_without_flow_tables(node: Node) -> None:
    with made_up({"settings": ("array", TIMEOUTS, 1)}) as datapath:
        assert sweep.sweep(datapath) == []


def test_the_frame_is_what_it_says() -> None:
    assert len(FRAME) == 14 + struct.unpack("!H", FRAME[16:18])[0]
