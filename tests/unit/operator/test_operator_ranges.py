"""Ranges: claimed before written, distinct, stable, released late."""

from ipaddress import ip_address, ip_network

import pytest

from pilus_api.settings import Settings, parse
from pilus_operator.facts import Claim, Network, Node, NodeObject, claim_name
from pilus_operator.ranges import (
    RELEASE_SECONDS,
    Action,
    CreateClaim,
    CreateNode,
    DeleteClaim,
    DeleteNode,
    Pool,
    Ranges,
    WriteNode,
    claim_object,
    node_object,
    node_patch,
)

BOTH = {"enable-ipv6": True, "cluster-pool-ipv4-cidr": "10.44.0.0/16", "cluster-pool-ipv6-cidr": "fd00:44::/48",
        "cluster-pool-ipv6-mask-size": 64}  # fmt: skip


def both() -> Settings:
    return parse(BOTH)


def net(text: str) -> Network:
    return ip_network(text)


class World:
    """Does what the plan says, as an API server would, until there is nothing left to do."""

    def __init__(self, settings: Settings) -> None:
        self.ranges = Ranges(settings)
        self.done: list[Action] = []
        self.versions = 0

    def node(self, name: str, uid: str = "u") -> None:
        self.ranges.nodes[name] = Node(uid, "192.0.2.1")

    def cilium_node(self, name: str, *ranges: str, owner: str = "u", kept: bool = False) -> None:
        self.versions += 1
        self.ranges.cilium_nodes[name] = NodeObject("cu", str(self.versions), tuple(map(net, ranges)), owner, kept)

    def claim(self, node: str, text: str) -> None:
        self.ranges.set_claim(claim_name(net(text)), Claim(node, net(text), "x", "1"))

    def settle(self, now: float = 0) -> list[Action]:
        done: list[Action] = []
        for _ in range(5):
            plan = list(self.ranges.plan(now))
            if not plan:
                return done
            done += plan
            for action in plan:
                match action:
                    case CreateClaim(node, found):
                        assert claim_name(found) not in self.ranges.claims
                        self.claim(node, str(found))
                    case CreateNode(node, uid, _):
                        self.cilium_node(node, owner=uid)
                    case WriteNode(node, _, ranges, owner):
                        for found in ranges:
                            assert self.ranges.claims[claim_name(found)].node == node, "written before it was claimed"
                        former = self.ranges.cilium_nodes[node]
                        self.cilium_node(node, *map(str, ranges), owner=owner or former.owner, kept=former.kept)
                    case DeleteNode(node, _):
                        del self.ranges.cilium_nodes[node]
                    case DeleteClaim(name, _, _):
                        self.ranges.remove_claim(name)
        raise AssertionError("it does not settle")

    def written(self, node: str) -> tuple[str, ...]:
        return tuple(str(found) for found in self.ranges.cilium_nodes[node].ranges)


def test_each_node_has_a_range_of_each_family_of_its_own() -> None:
    world = World(both())
    for name in ("a", "b"):
        world.node(name)
    world.settle()
    assert world.written("a") == ("10.44.0.0/24", "fd00:44::/64")
    assert world.written("b") == ("10.44.1.0/24", "fd00:44:0:1::/64")
    assert world.settle() == []


def test_a_node_whose_agent_was_there_first_is_written_and_owned() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a", uid="new")
    world.cilium_node("a", owner="")
    assert [type(action) for action in world.settle()] == [CreateClaim, WriteNode]
    assert (world.written("a"), world.ranges.cilium_nodes["a"].owner) == (("10.44.0.0/24",), "new")


@pytest.mark.parametrize(("written", "kept"), [("10.44.7.0/24", True), ("10.44.3.0/24", False), ("10.99.0.0/24", False)])
def test_a_range_from_before_there_were_claims_is_kept_if_it_is_free_and_ours(written: str, kept: bool) -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a")
    world.node("b")
    world.claim("b", "10.44.3.0/24")
    world.cilium_node("a", written)
    world.settle()
    assert (world.written("a") == (written,)) is kept
    assert world.written("a") != world.written("b")


def test_a_node_written_against_its_claim_is_put_right() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a")
    world.settle()
    world.cilium_node("a", "10.44.9.0/24")
    world.settle()
    assert world.written("a") == ("10.44.0.0/24",)


def test_of_two_claims_of_a_node_the_one_that_is_written_stays() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a")
    world.claim("a", "10.44.1.0/24")
    world.claim("a", "10.44.2.0/24")
    world.cilium_node("a", "10.44.2.0/24")
    assert world.settle() == [DeleteClaim("10-44-1-0-24", "x", "1")]


def test_what_a_gone_node_had_is_released_late_and_its_node_first() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a")
    world.settle()
    del world.ranges.nodes["a"]
    assert world.settle(100) == []
    assert world.ranges.waits(100) == RELEASE_SECONDS
    assert world.settle(100 + RELEASE_SECONDS - 1) == []
    assert [type(action) for action in world.settle(100 + RELEASE_SECONDS)] == [DeleteNode, DeleteClaim]
    assert world.ranges.waits(200) is None


def test_a_node_that_comes_back_in_time_keeps_all_and_changes_its_owner() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.node("a")
    world.settle()
    del world.ranges.nodes["a"]
    world.settle(100)
    world.node("a", uid="second")
    (action,) = world.settle(110)
    assert isinstance(action, WriteNode)
    assert action.owner == "second"
    del world.ranges.nodes["a"]
    assert world.settle(100 + RELEASE_SECONDS) == [], "its absence counts from the second time"


@pytest.mark.parametrize(("owner", "kept"), [("", False), ("u", True)])
def test_a_machine_without_a_node_object_keeps_its_range(owner: str, kept: bool) -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/16"}))
    world.cilium_node("vm", owner=owner, kept=kept)
    world.settle()
    world.settle(1000)
    assert world.written("vm") == ("10.44.0.0/24",)


def test_a_full_pool_is_said_and_serves_again_when_a_range_is_back() -> None:
    world = World(parse({"cluster-pool-ipv4-cidr": "10.44.0.0/23"}))
    for name in ("a", "b", "c"):
        world.node(name)
    world.settle()
    assert world.ranges.full() == [4]
    assert world.written("c") == ()
    del world.ranges.nodes["a"]
    world.settle(0)
    world.settle(RELEASE_SECONDS)
    assert (world.ranges.full(), world.written("c")) == ([], ("10.44.0.0/24",))


def test_addresses_belong_to_who_claimed_them() -> None:
    world = World(both())
    world.claim("a", "10.44.1.0/24")
    world.claim("a", "fd00:44::/64")
    owns = world.ranges.owns
    assert owns("a", ip_address("10.44.1.9"))
    assert owns("a", ip_address("fd00:44::9"))
    assert not owns("a", ip_address("10.44.2.9"))
    assert not owns("b", ip_address("10.44.1.9"))
    world.ranges.remove_claim("10-44-1-0-24")
    assert not owns("a", ip_address("10.44.1.9"))


@pytest.mark.parametrize(
    ("pools", "mask", "taken", "expected"),
    [
        (["10.0.0.0/30"], 32, [], ["10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/32"]),
        (["10.0.0.0/30"], 32, ["10.0.0.1/32"], ["10.0.0.0/32", "10.0.0.2/32", "10.0.0.3/32"]),
        (["10.0.0.0/31", "10.9.0.0/31"], 32, ["10.0.0.1/32"], ["10.0.0.0/32", "10.9.0.0/32", "10.9.0.1/32"]),
        (["10.0.0.0/22"], 24, ["10.0.1.128/25"], ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]),
        (["10.0.0.0/22"], 24, ["10.0.0.0/23"], ["10.0.2.0/24", "10.0.3.0/24", "10.0.2.0/24"]),
        (["10.0.0.0/22"], 24, ["10.0.0.0/8"], [None, None, None]),
        (["10.0.0.0/24"], 24, ["10.9.0.0/24"], ["10.0.0.0/24"] * 3),
        (["fd00::/16"], 120, [], ["fd00::/120", "fd00::100/120", "fd00::200/120"]),
    ],
)
def test_a_pool_goes_round_and_gives_nothing_that_overlaps(
    pools: list[str], mask: int, taken: list[str], expected: list[str | None]
) -> None:
    pool = Pool(map(net, pools), mask)
    found = [pool.next(map(net, taken)) for _ in expected]
    assert [str(range_) if range_ else None for range_ in found] == expected


def test_a_new_leader_goes_on_after_what_is_in_use() -> None:
    pool = Pool([net("10.0.0.0/22")], 24)
    pool.passed(net("10.0.2.0/24"))
    pool.passed(net("10.0.1.0/24"))
    assert str(pool.next([])) == "10.0.3.0/24"


def test_objects_are_what_the_api_server_takes() -> None:
    assert claim_object(CreateClaim("a", net("fd00:44:0:1::/64"))) == {
        "apiVersion": "pilus.io/v1alpha1",
        "kind": "PilusRangeClaim",
        "metadata": {"name": "fd00-44-0-1---64"},
        "spec": {"node": "a", "range": "fd00:44:0:1::/64"},
    }
    owner = [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u"}]
    made = node_object(CreateNode("a", "u", "192.0.2.1"))
    assert made["metadata"] == {"name": "a", "ownerReferences": owner}
    assert made["spec"] == {"addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}]}
    patch = node_patch(WriteNode("a", "7", (net("10.0.0.0/24"),), "u"))
    assert patch == {
        "metadata": {"resourceVersion": "7", "ownerReferences": owner},
        "spec": {"ipam": {"podCIDRs": ["10.0.0.0/24"]}},
    }
    assert node_patch(WriteNode("a", "7", (), ""))["metadata"] == {"resourceVersion": "7"}
