"""What CNI ADD makes: in order, undone whole, found again by the next agent; files that were broken on purpose among them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.fakes import FakeKernel, attachment, eventually

from pilus_agent.attachments import AttachmentFiles, Numbers, key_of
from pilus_agent.datapath.links import ALIAS, POD_LINKS, LinkError
from pilus_agent.endpoints import Endpoints, PodNamespaceError, link_name
from pilus_agent.facts import Address
from pilus_agent.ipam import Allocator, ExhaustedError

RANGE = ip_network("10.0.1.0/29")  # .2 to .6
ROUTERS: dict[int, Address] = {4: ip_address("10.0.1.1")}
POD = ("default", "web", "uid-web")


@pytest.fixture
def netns(tmp_path: Path) -> str:
    place = tmp_path / "netns"
    place.touch()
    return str(place)


def make(kernel: FakeKernel, folder: Path, rest: float = 30) -> Endpoints:
    return Endpoints(kernel, AttachmentFiles(folder / "endpoints"), Allocator([RANGE], rest))


@pytest.fixture
def endpoints(kernel: FakeKernel, tmp_path: Path) -> Endpoints:
    return make(kernel, tmp_path)


async def settled(endpoints: Endpoints) -> None:
    await eventually(lambda: not any(task.get_name().startswith("delete ") for task in asyncio.all_tasks()), "the deletions")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "endpoints").iterdir())


# -- making and removing -------------------------------------------------------------------------------------------------------


async def test_made_in_order_and_down_until_connected(endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    link = kernel.links.links[made.link]
    assert made.link == link_name("c1/eth0")
    assert (link.container, link.index, link.mac, link.up) == ("c1/eth0", made.ifindex, made.gateway_mac, False)
    assert link.filters == {"ingress": f"pod_from-{kernel.datapath.hash}", "egress": f"pod_to-{kernel.datapath.hash}"}
    assert link.configured == made.addresses == (ip_address("10.0.1.2"),)
    assert (made.container, made.interface, made.namespace, made.pod, made.uid, made.number) == ("c1", "eth0", *POD, 1)
    order = [event for event, _ in kernel.links.events]
    assert order.index("create_pod_link") < order.index("attach") < order.index("configure_pod")
    assert endpoints.attachments == {"c1/eth0": made}
    assert AttachmentFiles(tmp_path / "endpoints").read() == {"c1/eth0": made}
    await endpoints.connect(made, ROUTERS)
    assert link.up


async def test_doing_it_twice_gives_the_same(endpoints: Endpoints, kernel: FakeKernel, netns: str) -> None:
    first = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    events = list(kernel.links.events)
    assert await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS) is first
    assert kernel.links.events == events


async def test_a_container_may_have_slashes_and_two_interfaces(endpoints: Endpoints, netns: str, tmp_path: Path) -> None:
    one = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    other = tmp_path / "other"
    other.touch()
    two = await endpoints.prepare("c1/eth1", POD, str(other), 1450, ROUTERS)
    assert (two.interface, two.number, two.addresses) == ("eth1", 2, (ip_address("10.0.1.3"),))
    assert one.link != two.link
    assert one.mac != two.mac != two.gateway_mac


def test_names_of_links() -> None:
    name = link_name("0123456789abcdef" * 4 + "/eth0")
    assert name.startswith(POD_LINKS)
    assert len(name) <= 15
    assert name == link_name("0123456789abcdef" * 4 + "/eth0") != link_name("0123456789abcdef" * 4 + "/eth1")
    assert ALIAS == "pilus:"


async def test_a_link_that_an_add_that_died_left_is_replaced(endpoints: Endpoints, kernel: FakeKernel, netns: str) -> None:
    await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    endpoints.attachments.clear()  # the agent died before it wrote down what it made
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    assert kernel.links.links[made.link].index == made.ifindex


@pytest.mark.parametrize("where", ["create_pod_link", "attach", "configure_pod", "file"])
async def test_half_way_is_undone(
    endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "file":
        monkeypatch.setattr(AttachmentFiles, "write", _refuse)
    else:
        kernel.links.fail[where] = LinkError("no buffer space")
    with pytest.raises((LinkError, OSError)):
        await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    monkeypatch.undo()
    assert endpoints.attachments == {}
    assert names(tmp_path) == []
    assert not kernel.links.pod_links()
    assert endpoints.allocator.owners() == ()
    for number in range(2, 65536):  # in turn, so the one given back comes last
        endpoints._numbers.hold(number)
    assert (await endpoints.prepare("c2/eth0", POD, netns, 1450, ROUTERS)).number == 1


def _refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


async def test_cancelled_half_way_is_undone(endpoints: Endpoints, kernel: FakeKernel, netns: str) -> None:
    kernel.links.fail["configure_pod"] = asyncio.CancelledError()  # type: ignore[assignment]
    with pytest.raises(asyncio.CancelledError):
        await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    assert (endpoints.allocator.owners(), kernel.links.links) == ((), {})


async def test_a_namespace_that_is_not_there(endpoints: Endpoints, kernel: FakeKernel, tmp_path: Path) -> None:
    with pytest.raises(PodNamespaceError, match="No such file"):
        await endpoints.prepare("c1/eth0", POD, str(tmp_path / "gone"), 1450, ROUTERS)
    assert (endpoints.allocator.owners(), endpoints.attachments, kernel.links.links) == ((), {}, {})


async def test_no_address_left(endpoints: Endpoints, netns: str, kernel: FakeKernel) -> None:
    for number in range(5):
        endpoints.allocator.allocate(f"o{number}", 0)
    with pytest.raises(ExhaustedError):
        await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    assert kernel.links.links == {}
    endpoints.allocator.release("o0", -1000)
    assert (await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)).number == 1


async def test_removed_and_then_forgotten(endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    await endpoints.connect(made, ROUTERS)
    assert await endpoints.remove("c1/eth0") == made
    assert not kernel.links.links[made.link].up  # nothing gets out any more
    assert names(tmp_path) == []
    assert endpoints.attachments == {}
    assert endpoints.allocator.held_by("c1/eth0") == made.addresses  # its rows are in the kernel still
    endpoints.forget(made)
    await settled(endpoints)
    assert endpoints.allocator.owners() == ()
    assert kernel.links.links == {}
    assert await endpoints.remove("c1/eth0") is None


async def test_removing_what_nobody_knows_removes_its_link(endpoints: Endpoints, kernel: FakeKernel) -> None:
    kernel.links._new(link_name("c9/eth0")).container = "c9/eth0"
    assert await endpoints.remove("c9/eth0") is None
    await settled(endpoints)
    assert kernel.links.links == {}


async def test_a_removal_that_fails_can_be_tried_again(
    endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path
) -> None:
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    kernel.links.fail["set_down"] = LinkError("busy")
    with pytest.raises(LinkError):
        await endpoints.remove("c1/eth0")
    assert await endpoints.remove("c1/eth0") == made


# -- the next agent ------------------------------------------------------------------------------------------------------------


async def test_a_new_agent_finds_what_the_old_one_made(
    endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path
) -> None:
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    await endpoints.connect(made, ROUTERS)
    kernel.links.events.clear()
    after = make(kernel, tmp_path)
    await after.restore()
    assert after.attachments == {"c1/eth0": made}
    assert kernel.links.events == []  # nothing was touched
    assert kernel.links.links[made.link].up
    second = await after.prepare("c2/eth0", POD, netns, 1450, ROUTERS)
    assert second.number == 2
    assert second.addresses != made.addresses


async def test_a_new_agent_before_it_knows_its_ranges(endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    after = Endpoints(kernel, AttachmentFiles(tmp_path / "endpoints"), Allocator())
    await after.restore()
    assert after.attachments == {"c1/eth0": made}
    after.allocator.add(RANGE)
    assert (await after.prepare("c2/eth0", POD, netns, 1450, ROUTERS)).addresses != made.addresses


async def test_links_that_went_and_links_of_strangers(endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    gone = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    again = await endpoints.prepare("c2/eth0", POD, netns, 1450, ROUTERS)
    del kernel.links.links[gone.link]
    del kernel.links.links[again.link]
    kernel.links._new(again.link).container = "c2/eth0"  # the same name, but not what we made
    kernel.links._new("plxstranger").container = "c3/eth0"
    kernel.links._new("eth7")
    after = make(kernel, tmp_path)
    await after.restore()
    assert (after.attachments, names(tmp_path), after.allocator.owners()) == ({}, [], ())
    assert set(kernel.links.links) == {"eth7"}


async def test_a_removal_that_comes_while_it_restores(endpoints: Endpoints, kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    """Whichever is first: nothing is left that has lost its link."""
    made = await endpoints.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    for first in ("restore", "remove"):
        kernel.links.links.setdefault(made.link, kernel.links._new(made.link)).container = "c1/eth0"
        kernel.links.links[made.link].index = made.ifindex
        AttachmentFiles(tmp_path / "endpoints").write(made)
        after = make(kernel, tmp_path)
        work = [after.restore(), after.remove("c1/eth0")]
        results = await asyncio.gather(*(work if first == "restore" else reversed(work)))
        await settled(after)
        assert after.attachments == {}, first
        for result in results:
            if result is not None:
                after.forget(result)
        await settled(after)
        assert (kernel.links.links, names(tmp_path), after.allocator.owners()) == ({}, [], ()), first


# -- files ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> AttachmentFiles:
    return AttachmentFiles(tmp_path / "endpoints")


def test_a_file_for_each(files: AttachmentFiles, tmp_path: Path) -> None:
    one = attachment("a", 1)
    two = replace(attachment("b", 2), addresses=(ip_address("10.0.1.3"), ip_address("fd00::3")))
    for each in (one, two, two):
        files.write(each)
    assert files.read() == {key_of(one): one, key_of(two): two}
    assert names(tmp_path) == ["1.json", "2.json"]
    assert (tmp_path / "endpoints").stat().st_mode & 0o077 == 0
    files.remove(one, 0.0)
    files.remove(one, 0.0)
    assert files.read() == {key_of(two): two}


BROKEN: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("a word", lambda _: "attachment"),
    ("a number", lambda _: 5),
    ("nothing", lambda _: None),
    ("a list", lambda _: ["addresses"]),
    ("an empty object", lambda _: {}),
    ("a field less", lambda held: {name: value for name, value in held.items() if name != "mac"}),
    ("a field more", lambda held: held | {"colour": "red"}),
    ("no addresses", lambda held: held | {"addresses": None}),
    ("an address that is none", lambda held: held | {"addresses": ["10.0.1.256"]}),
    ("addresses as a text", lambda held: held | {"addresses": "10.0.1.2"}),
    ("an address as a number", lambda held: held | {"addresses": [1]}),
    ("a number as a text", lambda held: held | {"number": "7"}),
    ("number 0", lambda held: held | {"number": 0}),
    ("number 65536", lambda held: held | {"number": 65536}),
    ("a link's index as a text", lambda held: held | {"ifindex": "101"}),
    ("a container that is none", lambda held: held | {"container": ["c"]}),
    ("a MAC that is none", lambda held: held | {"mac": "zz"}),
    ("half a MAC", lambda held: held | {"gateway_mac": "02:00"}),
]


@pytest.mark.parametrize("change", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
async def test_a_broken_file_is_left_out_and_said(
    files: AttachmentFiles, tmp_path: Path, logs: list[dict[str, object]], change: Callable[[dict[str, Any]], object]
) -> None:
    good = attachment("a", 1)
    files.write(good)
    files.write(attachment("b", 7))
    path = tmp_path / "endpoints/7.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert files.read() == {key_of(good): good}
    assert [one["path"] for one in logs] == [str(path)]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"a": 1} x', b"[" * 100_000, b"\0" * 4096])
def test_bytes_that_are_no_file_of_ours(files: AttachmentFiles, tmp_path: Path, content: bytes) -> None:
    good = attachment("a", 1)
    files.write(good)
    (tmp_path / "endpoints/0.json").write_bytes(content)
    (tmp_path / "endpoints/9.json").mkdir()
    (tmp_path / "endpoints/3.new").write_bytes(b"half")  # a write that was cut off
    (tmp_path / "endpoints/note.txt").write_bytes(b"")
    assert files.read() == {key_of(good): good}


@pytest.fixture
def _contradicting(files: AttachmentFiles, kernel: FakeKernel) -> None:
    """Two files claim one address, and one claims the router's."""
    for number, address in ((1, "10.0.1.2"), (2, "10.0.1.2"), (3, "10.0.1.1")):
        name = link_name(f"c-p{number}/eth0")
        index = kernel.links._new(name).index
        kernel.links.links[name].container = f"c-p{number}/eth0"
        files.write(replace(attachment(f"p{number}", number, ifindex=index), link=name, addresses=(ip_address(address),)))


@pytest.mark.usefixtures("_contradicting")
async def test_files_that_contradict_each_other_do_not_stop_the_agent(
    kernel: FakeKernel, tmp_path: Path, logs: list[dict[str, object]]
) -> None:
    after = make(kernel, tmp_path)
    await after.restore()
    assert list(after.attachments) == ["c-p1/eth0"]
    assert set(kernel.links.links) == {link_name("c-p1/eth0")}
    assert names(tmp_path) == ["1.json"]
    assert len([one for one in logs if one["log_level"] == "warning"]) == 2


def test_numbers_go_round() -> None:
    numbers = Numbers()
    assert [numbers.take() for _ in range(3)] == [1, 2, 3]
    numbers.give_back(1)
    assert numbers.take() == 4
    numbers.hold(65535)
    assert numbers.take() == 1
    numbers.give_back(700)
    assert numbers.take() == 5


def test_numbers_end() -> None:
    numbers = Numbers()
    for number in range(1, 65536):
        numbers.hold(number)
    with pytest.raises(RuntimeError, match="65,535"):
        numbers.take()
    numbers.give_back(9)
    assert numbers.take() == 9


async def test_a_released_address_rests_also_when_the_agent_restarts(kernel: FakeKernel, netns: str, tmp_path: Path) -> None:
    """Others learn late whose it is, whoever gives it out."""
    network = ip_network("10.0.1.0/24")
    first = Endpoints(kernel, AttachmentFiles(tmp_path / "endpoints"), Allocator([network]))
    kept = await first.prepare("c1/eth0", POD, netns, 1450, ROUTERS)
    other = tmp_path / "other"
    other.touch()
    gone = await first.prepare("c2/eth0", POD, str(other), 1450, ROUTERS)
    assert await first.remove("c2/eth0") == gone
    await kernel.call(kernel.netlink().delete, gone.link)
    second = Endpoints(kernel, AttachmentFiles(tmp_path / "endpoints"), Allocator())
    await second.restore()  # died before `forget`; and ranges are known later
    second.allocator.add(network)
    assert second.allocator.held_by("c1/eth0") == kept.addresses
    again = await second.prepare("c3/eth0", POD, str(other), 1450, ROUTERS)
    assert set(again.addresses).isdisjoint(gone.addresses)
    second.allocator.rest = 0.0
    await second.remove("c3/eth0")
    assert not list((tmp_path / "endpoints-released").iterdir()), "files of what has rested stay for ever"


async def test_a_broken_file_of_a_released_endpoint_is_left_out(kernel: FakeKernel, tmp_path: Path) -> None:
    files = AttachmentFiles(tmp_path / "endpoints")
    for number, text in enumerate(("", "[]", '{"since": "x", "addresses": []}', '{"since": 1e9, "addresses": 3}')):
        (tmp_path / "endpoints-released" / f"{number}.json").write_text(text)
    assert files.released(0.0) == {}
    assert not list((tmp_path / "endpoints-released").iterdir())
