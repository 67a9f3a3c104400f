"""CNI requests from bytes to bytes: ADD waits for the kernel, what fails is undone, DEL always succeeds, the queue is emptied."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.fakes import PATIENCE, FakeDatapath, FakeKernel, World, allow_from, eventually, pod, policy, quicken

from pilus_agent.attachments import AttachmentFiles
from pilus_agent.datapath.links import LinkError
from pilus_agent.endpoints import Endpoints, link_name
from pilus_agent.ipam import Allocator
from pilus_agent.sources import cni as module
from pilus_agent.sources.cni import CniSource
from pilus_agent.sources.cni_request import Code
from pilus_api.identities import INIT

WEB = pod("web", app="web")


def request(
    command: str,
    container: str = "c1",
    netns: str = "/none",
    name: str = "web",
    uid: str = "",
    version: str = "1.1.0",
    **config: Any,
) -> bytes:
    environment = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}" + (f";K8S_POD_UID={uid}" if uid else ""),
    }  # fmt: skip
    lines = "".join(f"{key}={value}\n" for key, value in environment.items())
    body = {"cniVersion": version, "name": "pilus", "type": "pilus-cni"} | {
        name.replace("__", "/"): one for name, one in config.items()
    }
    return f"CNI 1\n{lines}\n".encode() + json.dumps(body).encode()


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    code, _, rest = answer.partition(b"\n")
    return int(code), json.loads(rest) if rest else {}


@dataclass
class Node:
    world: World
    kernel: FakeKernel
    endpoints: Endpoints
    source: CniSource
    folder: Path
    netns: str

    async def ask(self, command: str, **more: Any) -> tuple[int, dict[str, Any]]:
        return parsed(await self.source.answer(request(command, **{"netns": self.netns} | more)))

    async def add(self, **more: Any) -> dict[str, Any]:
        code, answer = await self.ask("ADD", **more)
        assert code == 0, answer
        return answer

    async def quiet(self) -> None:
        """Nothing of any pod is left anywhere."""
        await eventually(lambda: not self.kernel.links.pod_links(), "the links")
        assert self.endpoints.attachments == {}
        assert self.world.wiring.facts.attachments == {}
        assert self.world.rows("endpoints") == []
        assert self.endpoints.allocator.owners() == ()
        assert list((self.folder / "endpoints").iterdir()) == []


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    for name in ("_POD_SECONDS", "_IDENTITY_SECONDS"):
        monkeypatch.setattr(module, name, 0.05)


def make(datapath: FakeDatapath, tmp_path: Path) -> Node:
    kernel = FakeKernel(datapath)
    world = World(kernel)
    endpoints = Endpoints(kernel, AttachmentFiles(tmp_path / "endpoints"), Allocator([ip_network("10.0.1.0/24")]))
    netns = tmp_path / "netns"
    netns.touch()
    return Node(world, kernel, endpoints, CniSource(world.wiring, endpoints, tmp_path / "queue"), tmp_path, str(netns))


@pytest.fixture
async def node(datapath: FakeDatapath, tmp_path: Path) -> AsyncIterator[Node]:
    found = make(datapath, tmp_path)
    found.world.begin()
    found.world.identity(300, WEB)
    found.world.wiring.put("pods", "default/web", WEB)
    found.world.sync()
    async with found.world.running():
        await found.world.realise()
        yield found


# -- ADD -----------------------------------------------------------------------------------------------------------------------


async def test_add_answers_when_the_pod_can_speak(node: Node) -> None:
    answer = await node.add()
    made = node.endpoints.attachments["c1/eth0"]
    assert answer["ips"] == [{"address": "10.0.1.2/32", "gateway": "10.0.1.1", "interface": 1}]
    assert answer["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.1.1"}]
    assert answer["interfaces"] == [
        {"name": link_name("c1/eth0"), "mac": made.gateway_mac, "mtu": 1450},
        {"name": "eth0", "mac": made.mac, "mtu": 1450, "sandbox": node.netns},
    ]
    assert (node.world.endpoint("10.0.1.2") or {})["identity"] == 300
    assert node.kernel.links.links[made.link].up
    assert await node.add() == answer  # once more, the same


async def test_the_link_goes_up_after_the_rows(node: Node) -> None:
    node.world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "web")))
    await node.world.realise()
    node.kernel.wait["endpoints"] = asyncio.Event()
    adding = asyncio.create_task(node.ask("ADD"))
    await eventually(lambda: "endpoints" in node.kernel.waiting, "the pass stands before the endpoints")
    link = node.kernel.links.links[link_name("c1/eth0")]
    assert (bool(link.filters), link.up) == (True, False)
    assert not adding.done()
    node.kernel.wait["endpoints"].set()
    assert (await adding)[0] == 0
    assert link.up
    assert (node.world.endpoint("10.0.1.2") or {})["policy"] != 0


async def test_add_waits_for_its_pod_and_its_identity(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_POD_SECONDS", "_IDENTITY_SECONDS"):
        monkeypatch.setattr(module, name, PATIENCE)
    new = pod("new", app="new")
    adding = asyncio.create_task(node.ask("ADD", name="new", uid="uid-new"))
    await asyncio.sleep(0)
    node.world.wiring.put("pods", "default/new", pod("new", app="new"))
    await eventually(lambda: node.endpoints.attachments, "the link")
    await node.world.realise()
    assert not adding.done()
    node.world.identity(310, new)
    assert (await adding)[0] == 0
    assert (node.world.endpoint("10.0.1.2") or {})["identity"] == 310


async def test_a_pod_of_an_earlier_life_is_not_this_one(node: Node) -> None:
    code, answer = await node.ask("ADD", uid="uid-of-the-next")
    assert (code, answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "has not told this node of pod default/web" in answer["details"]
    await node.quiet()


async def test_no_identity_in_time_is_init(node: Node, logs: list[dict[str, object]]) -> None:
    node.world.wiring.put("pods", "default/new", pod("new", app="new"))
    await node.add(name="new")
    row = node.world.endpoint("10.0.1.2")
    assert row is not None
    assert row["identity"] == INIT
    assert row["flags"] & 3 == 3  # closed both ways
    assert any("reserved:init" in str(one["event"]) for one in logs)


@pytest.mark.parametrize("where", ["create_pod_link", "attach", "configure_pod", "connect_pod"])
async def test_add_that_fails_half_way_is_rolled_back(node: Node, where: str) -> None:
    node.kernel.links.fail[where] = LinkError("no buffer space")
    code, answer = await node.ask("ADD")
    assert code == 1
    assert answer["code"] == Code.IO_FAILURE
    assert "no buffer space" in answer["details"]
    await node.quiet()
    assert await node.add()


async def test_add_whose_rows_do_not_fit_is_rolled_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KERNEL_SECONDS", 0.05)
    node.kernel.room["endpoints"] = 0
    code, answer = await node.ask("ADD")
    assert (code, answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert "did not get into the kernel" in answer["details"]
    await node.quiet()
    assert not any(event == "connect_pod" for event, _ in node.kernel.links.events)


async def test_a_runtime_that_goes_away_is_rolled_back(node: Node) -> None:
    node.kernel.wait["endpoints"] = asyncio.Event()
    adding = asyncio.create_task(node.ask("ADD"))
    await eventually(lambda: "endpoints" in node.kernel.waiting, "the pass stands before the endpoints")
    adding.cancel()
    await eventually(lambda: not node.endpoints.attachments, "the rollback")
    node.kernel.wait["endpoints"].set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    await node.world.realise()
    await node.quiet()


async def test_a_namespace_that_is_gone_and_no_address(node: Node, tmp_path: Path) -> None:
    code, answer = await node.ask("ADD", netns=str(tmp_path / "gone"))
    assert (code, answer["code"]) == (1, Code.UNKNOWN_CONTAINER)
    for number in range(252):  # of 253; one rests
        node.endpoints.allocator.allocate(f"o{number}", 0)
    code, answer = await node.ask("ADD", version="0.4.0")
    assert (code, answer["code"], answer["cniVersion"]) == (1, Code.TRY_AGAIN_LATER, "0.4.0")
    assert "no IPv4 address is left" in answer["details"]


async def test_what_nobody_thought_of_is_answered_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node.endpoints, "prepare", broken)
    code, answer = await node.ask("ADD")
    assert (code, answer["code"], answer["msg"]) == (1, Code.IO_FAILURE, "the agent failed")


@pytest.mark.parametrize("raw", [b"", b"CNI 1\n", b"CNI 2\n\n{}", b"\xff" * 100, request("ADD")[:-5], request("VERSION")])
async def test_bytes_that_are_no_request(node: Node, raw: bytes) -> None:
    code, answer = parsed(await node.source.answer(raw))
    assert code == 1
    assert answer["cniVersion"] == "1.1.0"


# -- not in sync ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50), ("GC", 11)])
async def test_before_everything_is_told(datapath: FakeDatapath, tmp_path: Path, command: str, code: int) -> None:
    node = make(datapath, tmp_path)
    node.world.begin()
    more: dict[str, Any] = {"cni.dev/valid-attachments": []} if command == "GC" else {}
    async with node.world.running():
        exit_code, answer = await node.ask(command, **more)
        assert (exit_code, answer["code"]) == (1, code)
        assert "has not heard everything" in answer["details"]
        assert (await node.ask("DEL"))[0] == 0  # it always succeeds
        node.world.wiring.put("nodes", "n1", None)
        node.world.sync()
        await node.world.wiring.until(lambda: bool(node.world.wiring.trouble), PATIENCE)
        exit_code, answer = await node.ask(command, **more)
        assert (exit_code, answer["code"]) == (1, code)
        assert "no pod range" in answer["details"]


async def test_status_when_ready(node: Node) -> None:
    assert await node.ask("STATUS") == (0, {})


# -- DEL, CHECK, GC ------------------------------------------------------------------------------------------------------------


async def test_del_twice_and_of_what_never_was(node: Node) -> None:
    await node.add()
    for _ in range(2):
        assert await node.ask("DEL", netns="") == (0, {})
        await node.quiet()
    assert await node.ask("DEL", container="c9") == (0, {})


async def test_the_address_is_given_again_after_the_rows_have_gone(node: Node) -> None:
    await node.add()
    made = node.endpoints.attachments["c1/eth0"]
    node.kernel.wait["settings"] = asyncio.Event()  # never reached: nothing is to be written
    removed: list[bool] = []
    forget = node.endpoints.forget

    def watch(attachment: Any) -> None:
        removed.append(node.world.endpoint("10.0.1.2") is None and node.world.known("10.0.1.2") is None)
        forget(attachment)

    node.endpoints.forget = watch  # type: ignore[method-assign]
    assert not node.kernel.links.links[made.link].up or await node.ask("DEL") == (0, {})
    assert removed == [True]


async def test_requests_for_one_pod_wait_for_each_other(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what comes third does not begin while the second goes on."""
    running: list[str] = []
    overlapped: list[list[str]] = []
    gate = asyncio.Event()
    prepare, remove = node.endpoints.prepare, node.endpoints.remove

    async def watched(function: Any, name: str, *args: Any) -> Any:
        running.append(name)
        if len(running) > 1:
            overlapped.append(list(running))
        await gate.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        try:
            return await function(*args)
        finally:
            running.remove(name)

    monkeypatch.setattr(node.endpoints, "prepare", lambda *args: watched(prepare, "prepare", *args))
    monkeypatch.setattr(node.endpoints, "remove", lambda *args: watched(remove, "remove", *args))
    first = asyncio.create_task(node.ask("DEL"))
    await eventually(lambda: running, "the first DEL")
    adding = asyncio.create_task(node.ask("ADD"))
    await asyncio.sleep(0)
    gate.set()
    await first
    last = asyncio.create_task(node.ask("DEL"))
    assert {(await task)[0] for task in (adding, last)} == {0}
    assert overlapped == []
    await node.quiet()


async def test_a_del_that_can_not_be_done_now_is_done_when_asked_again(node: Node) -> None:
    await node.add()
    node.kernel.links.fail["set_down"] = LinkError("busy")
    assert (await node.ask("DEL"))[0] == 1
    assert (await node.ask("DEL"))[0] == 0
    await node.quiet()


async def test_check(node: Node) -> None:
    result = await node.add()
    assert await node.ask("CHECK", prevResult=result) == (0, {})
    code, answer = await node.ask("CHECK", container="c9", prevResult=result)
    assert (code, answer["code"]) == (1, Code.UNKNOWN_CONTAINER)
    other = result | {"ips": [{"address": "10.0.1.9/32"}]}
    code, answer = await node.ask("CHECK", prevResult=other)
    assert (code, answer["code"]) == (1, Code.INVALID_CONFIGURATION)
    assert "10.0.1.9" in answer["details"]
    node.world.tables.trackers["endpoints"].hold_all({})  # somebody emptied the table
    code, answer = await node.ask("CHECK", prevResult=result)
    assert (code, answer["code"]) == (1, Code.TRY_AGAIN_LATER)


async def test_gc_removes_what_the_runtime_does_not_name(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in ("c1", "c2"):
        (tmp_path / container).touch()
        await node.add(container=container, netns=str(tmp_path / container))
    kept = [{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c9", "ifname": "eth0"}]
    assert await node.ask("GC", **{"cni.dev/valid-attachments": kept}) == (0, {})
    assert set(node.endpoints.attachments) == {"c1/eth0", "c2/eth0"}  # it is younger than the list may be
    monkeypatch.setattr(module, "_YOUNG_SECONDS", 0)
    assert await node.ask("GC", **{"cni.dev/valid-attachments": kept}) == (0, {})
    assert set(node.endpoints.attachments) == {"c2/eth0"}
    assert await node.ask("GC", **{"cni.dev/valid-attachments": []}) == (0, {})
    await node.quiet()


async def test_gc_goes_on_after_one_that_can_not_be_removed(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in ("c1", "c2", "c3"):
        (tmp_path / container).touch()
        await node.add(container=container, netns=str(tmp_path / container))
    monkeypatch.setattr(module, "_YOUNG_SECONDS", 0)
    node.kernel.links.fail["set_down"] = LinkError("busy")
    code, _ = await node.ask("GC", **{"cni.dev/valid-attachments": []})
    assert code == 1
    assert len(node.endpoints.attachments) == 1
    assert await node.ask("GC", **{"cni.dev/valid-attachments": []}) == (0, {})
    await node.quiet()


# -- the queue -----------------------------------------------------------------------------------------------------------------


async def test_no_queue(node: Node) -> None:
    await node.source.drain()
    assert not (node.folder / "queue").exists()


async def test_the_queue_is_drained_past_what_is_broken(node: Node, tmp_path: Path, logs: list[dict[str, object]]) -> None:
    for container in ("c1", "c2", "c3"):
        (tmp_path / container).touch()
        await node.add(container=container, netns=str(tmp_path / container))
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "a-eth0").write_bytes(b"\xff\x00 broken")
    (queue / "b-eth0").write_bytes(b"")
    (queue / "b.x-eth0").write_bytes(b"CNI 1\nCNI_COMMAND=DEL\n")
    (queue / "b.y-eth0").mkdir()
    (queue / "b.z-eth0").symlink_to(tmp_path / "nowhere")
    (queue / "c1-eth0").write_bytes(request("DEL", "c1"))
    (queue / "c2-eth0").write_bytes(request("DEL", "c2"))
    (queue / ".c3-eth0.77").write_bytes(request("DEL", "c3"))  # not written to its end
    await node.source.drain()
    assert set(node.endpoints.attachments) == {"c3/eth0"}
    left = {path.name for path in queue.iterdir()}
    assert not left & {"c1-eth0", "c2-eth0", "a-eth0", "b-eth0", "b.x-eth0"}
    assert ".c3-eth0.77" in left
    said = len(logs)
    await node.source.drain()
    assert len(logs) == said, "a file that makes no sense is said once"


async def test_only_a_del_is_done_from_the_queue(node: Node, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "c1-eth0").write_bytes(request("ADD", netns=node.netns))
    await node.source.drain()
    assert node.endpoints.attachments == {}
    assert [path.suffix for path in queue.iterdir()] == [".broken"]


async def test_a_queued_del_that_fails_now_is_kept(node: Node, tmp_path: Path) -> None:
    await node.add()
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "c1-eth0").write_bytes(request("DEL"))
    node.kernel.links.fail["set_down"] = LinkError("busy")
    await node.source.drain()
    assert [path.name for path in queue.iterdir()] == ["c1-eth0"]
    await node.source.drain()
    assert list(queue.iterdir()) == []
    await node.quiet()


async def test_an_add_is_not_ended_by_a_del_of_its_earlier_life(node: Node, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "c1-eth0").write_bytes(request("DEL"))
    await node.add()
    await node.source.drain()
    assert set(node.endpoints.attachments) == {"c1/eth0"}


async def test_the_queue_is_looked_at_for_ever(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAIN_SECONDS", 0.001)
    await node.add()
    queue = tmp_path / "queue"
    running = asyncio.create_task(node.source.run())
    try:
        queue.mkdir()
        (queue / ".draft").write_bytes(request("DEL"))
        (queue / ".draft").rename(queue / "c1-eth0")
        await eventually(lambda: not list(queue.iterdir()), "the queue")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await node.quiet()
