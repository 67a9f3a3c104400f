"""Who has which address: the stronger origin holds, whatever the road; what makes no sense is not believed."""

import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.fakes import OTHER, OWN, attachment, remote

from pilus_agent.desired.addresses import family, host_prefix, prefix, raw
from pilus_agent.desired.ipcache import IpCache, Key, Origin, Record, Strength, local_rows, slice_rows
from pilus_agent.desired.nodes import (
    LOCAL,
    NODE,
    POD,
    ROUTER,
    Overlap,
    RangeIndex,
    address_rows,
    believed_ranges,
    pod_range_rows,
    remote_ranges,
    tunnel_of,
)
from pilus_agent.facts import Network, Node
from pilus_api.identities import HOST, REMOTE_NODE, Identity

Row = tuple[Record, Record]
NODES = {"n1": OWN, "n2": OTHER}


def row(last: int, identity: int) -> Row:
    return host_prefix(ip_address(f"10.0.0.{last}")), {"identity": identity}


origins: st.SearchStrategy[Origin] = st.tuples(st.sampled_from(Strength), st.sampled_from("abc"))
rows = st.dictionaries(st.integers(1, 4), st.integers(1, 3)).map(lambda held: [row(*one) for one in held.items()])
puts = st.lists(st.tuples(origins, rows), max_size=12)


def strongest(said: dict[Origin, list[Row]]) -> dict[Key, Row]:
    """The naive way: everything, weakest first."""
    found: dict[Key, Row] = {}
    for origin in sorted(said, reverse=True):
        for key, value in said[origin]:
            found[64, bytes(key["address"])] = key, value  # type: ignore[call-overload]
    return found


@given(puts, st.randoms())
def test_the_same_rows_on_every_road(road: list[tuple[Origin, list[Row]]], chance: object) -> None:
    said = dict(road)
    wanted = strongest(said)
    cache = IpCache()
    for origin, held in road:
        cache.put(origin, held)
        cache.put(origin, held)
    assert cache.rows == wanted
    shuffled = list(said.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    other = IpCache()
    for origin, held in shuffled:
        other.withdraw(origin)
        other.put(origin, reversed(held))
    assert other.rows == wanted
    for strength in Strength:
        named = {name for kind, name in said if kind == strength and said[kind, name]}
        assert cache.origins(strength) == other.origins(strength) == named


@given(puts)
def test_changes_lead_from_one_look_to_the_next(road: list[tuple[Origin, list[Row]]]) -> None:
    cache, mirror = IpCache(), dict[Key, Row]()
    for origin, held in road:
        before = dict(mirror)
        cache.put(origin, held)
        changes = cache.take_changes()
        for key, now in changes.items():
            if now is None:
                mirror.pop(key, None)
            else:
                mirror[key] = now
        assert mirror == cache.rows
        assert {key for key in before.keys() | mirror.keys() if before.get(key) != mirror.get(key)} <= changes.keys()
    assert cache.take_changes() == {}


@given(puts)
def test_nothing_is_left_of_what_was_withdrawn(road: list[tuple[Origin, list[Row]]]) -> None:
    cache = IpCache()
    for origin, held in road:
        cache.put(origin, held)
    for origin, _ in road:
        cache.withdraw(origin)
    assert cache.rows == {}
    assert not any(cache.origins(strength) for strength in Strength)


def test_the_stronger_holds_and_the_weaker_comes_back() -> None:
    cache = IpCache()
    cache.put((Strength.SLICE, "b"), [row(1, 4)])
    cache.put((Strength.SLICE, "a"), [row(1, 3)])
    assert [value["identity"] for _, value in cache.rows.values()] == [3]  # the lower name
    cache.put((Strength.LOCAL_POD, "z"), [row(1, 1)])
    cache.put((Strength.NODE, "a"), [row(1, 2)])
    assert [value["identity"] for _, value in cache.rows.values()] == [1]
    cache.withdraw((Strength.LOCAL_POD, "z"))
    assert [value["identity"] for _, value in cache.rows.values()] == [2]
    cache.put((Strength.NODE, "a"), [row(2, 2)])
    assert sorted((key[1][3], value["identity"]) for key, (_, value) in cache.rows.items()) == [(1, 3), (2, 2)]


# -- pods and slices -----------------------------------------------------------------------------------------------------------


def test_a_pod_of_this_node() -> None:
    (held,) = local_rows(attachment("a", 1), Identity(300))
    assert held == (
        {"length": 64, "family": 4, "address": bytes([10, 0, 1, 11]) + bytes(12)},
        {"identity": 300, "flags": POD | LOCAL},
    )


@pytest.mark.parametrize(
    ("address", "node", "believed"),
    [
        ("10.0.2.7", "192.0.2.2", True),
        ("10.0.2.7", None, True),  # then it is behind whoever has the range
        ("10.0.2.7", "192.0.2.3", False),  # of another node
        ("10.0.2.7", "192.0.2.1", False),  # of ours
        ("10.0.3.7", "192.0.2.2", False),  # in nobody's range
        ("10.0.1.7", "192.0.2.1", False),  # in our own, where we know better
        ("10.0.1.7", None, False),
        ("192.0.2.1", "192.0.2.1", False),  # our own underlay address
        ("::a00:207", "192.0.2.2", False),  # the same number, in the other family
    ],
)
def test_a_slice_is_believed_inside_its_nodes_range_alone(address: str, node: str | None, believed: bool) -> None:
    held, _ = believed_ranges(NODES, "n1")
    rows = list(slice_rows(remote("p", 300, address, node=node), RangeIndex(held), NODES, "n1"))
    wanted = {"identity": 300, "flags": POD, "tunnel_family": 4, "tunnel": bytes([192, 0, 2, 2]) + bytes(12)}
    assert rows == ([(host_prefix(ip_address(address)), wanted)] if believed else [])


def test_a_slice_of_a_node_without_address() -> None:
    nodes = {"n1": OWN, "n2": Node("n2", ranges=OTHER.ranges)}
    ranges = RangeIndex(believed_ranges(nodes, "n1")[0])
    assert list(slice_rows(remote("p", 300, "10.0.2.7", node=None), ranges, nodes, "n1")) == []


# -- nodes ---------------------------------------------------------------------------------------------------------------------


def node(name: str, *ranges: str, addresses: tuple[str, ...] = ()) -> Node:
    return Node(name, tuple(map(ip_address, addresses)), (), tuple(map(ip_network, ranges)))


OVERLAPS: list[tuple[str, list[Node], dict[str, str], list[tuple[str, str, str]]]] = [
    ("none", [node("n1", "10.0.1.0/24"), node("n2", "10.0.2.0/24")], {"10.0.1.0/24": "n1", "10.0.2.0/24": "n2"}, []),
    ("the same", [node("b", "10.0.2.0/24"), node("a", "10.0.2.0/24")], {"10.0.2.0/24": "a"}, [("10.0.2.0/24", "b", "a")]),
    ("inside", [node("a", "10.0.0.0/16"), node("b", "10.0.2.0/24")], {"10.0.0.0/16": "a"}, [("10.0.2.0/24", "b", "a")]),
    ("around", [node("a", "10.0.2.0/24"), node("b", "10.0.0.0/16")], {"10.0.2.0/24": "a"}, [("10.0.0.0/16", "b", "a")]),
    ("ours first", [node("n1", "10.0.2.0/24"), node("a", "0.0.0.0/0")], {"10.0.2.0/24": "n1"}, [("0.0.0.0/0", "a", "n1")]),
    ("a second range of it is believed", [node("n1", "10.0.1.0/24"), node("a", "10.0.1.0/25", "10.0.2.0/24")],
     {"10.0.1.0/24": "n1", "10.0.2.0/24": "a"}, [("10.0.1.0/25", "a", "n1")]),
    ("the same node twice", [node("a", "10.0.0.0/16", "10.0.2.0/24", "10.0.0.0/16")], {"10.0.0.0/16": "a"}, []),
    ("of two families", [node("a", "0.0.0.0/0"), node("b", "::/0")], {"0.0.0.0/0": "a", "::/0": "b"}, []),
    ("neighbours", [node("a", "10.0.2.0/25"), node("b", "10.0.2.128/25")], {"10.0.2.0/25": "a", "10.0.2.128/25": "b"}, []),
    ("around several", [node("a", "10.0.2.0/24"), node("b", "10.0.4.0/24"), node("c", "10.0.0.0/16")],
     {"10.0.2.0/24": "a", "10.0.4.0/24": "b"}, [("10.0.0.0/16", "c", "a")]),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "held", "refused"), [case[1:] for case in OVERLAPS], ids=[case[0] for case in OVERLAPS])
def test_overlapping_ranges(nodes: list[Node], held: dict[str, str], refused: list[tuple[str, str, str]]) -> None:
    for order in (nodes, nodes[::-1]):
        found, left = believed_ranges({one.name: one for one in order}, "n1")
        assert {str(network): name for network, name in found.items()} == held
        assert left == [Overlap(ip_network(network), *names) for network, *names in refused]


small: st.SearchStrategy[Network] = st.builds(
    lambda number, length: ip_network((number << 24, length), strict=False), st.integers(0, 255), st.integers(2, 8)
)


@given(st.dictionaries(st.sampled_from(["n1", "a", "b", "c"]), st.lists(small, max_size=3)))
def test_believed_ranges_never_overlap_and_each_refusal_has_a_reason(held: dict[str, list[Network]]) -> None:
    nodes = {name: Node(name, ranges=tuple(ranges)) for name, ranges in held.items()}
    found, refused = believed_ranges(nodes, "n1")
    for one in found:
        assert not any(one is not other and one.overlaps(other) for other in found)
    for overlap in refused:
        assert overlap.node != overlap.holder
        assert any(overlap.network.overlaps(one) for one, name in found.items() if name == overlap.holder)
    index = RangeIndex(found)
    for number in range(0, 256, 5):
        address = ip_address(f"{number}.9.9.9")
        assert index.holder(address) == next((name for one, name in found.items() if address in one), None)


def test_a_large_cluster_costs_milliseconds() -> None:
    nodes = {f"n{number}": node(f"n{number}", f"10.{number >> 8}.{number & 255}.0/24") for number in range(4000)}
    started = time.process_time()
    held, refused = believed_ranges(nodes, "n1")
    assert time.process_time() - started < 1  # a hundredth of what comparing each with each takes
    assert (len(held), refused) == (4000, [])


def test_rows_of_ranges() -> None:
    nodes = NODES | {"n3": node("n3", "10.0.3.0/24"), "n6": node("n6", "fd00:6::/64", addresses=("2001:db8::6", "192.0.2.6"))}
    ranges, _ = believed_ranges(nodes, "n1")
    rows = {str(ip_address(bytes(key["address"])[: 4 if key["family"] == 4 else 16])): (key, value)  # type: ignore[call-overload]
            for key, value in pod_range_rows(ranges, nodes, "n1")}  # fmt: skip
    assert rows["10.0.1.0"] == (prefix(ip_network("10.0.1.0/24")), {"flags": LOCAL})
    assert rows["10.0.2.0"][1] == {"flags": 0, "tunnel_family": 4, "tunnel": raw(ip_address("192.0.2.2"))}
    assert rows["fd00:6::"][0]["length"] == 32 + 64
    assert rows["fd00:6::"][1]["tunnel"] == raw(ip_address("192.0.2.6"))  # IPv4 first
    assert "10.0.3.0" not in rows  # nobody knows where n3 is: its packets drop
    assert set(remote_ranges(ranges, "n1")) == {network for network, name in ranges.items() if name != "n1"}


def test_rows_of_a_nodes_addresses() -> None:
    ranges = RangeIndex(believed_ranges(NODES, "n1")[0])
    far = Node("n2", OTHER.addresses, (ip_address("10.0.2.1"), ip_address("10.0.1.9"), ip_address("8.8.8.8")), OTHER.ranges)
    rows = {bytes(key["address"])[:4]: value for key, value in address_rows(far, "n1", ranges)}  # type: ignore[call-overload]
    assert rows == {
        bytes([192, 0, 2, 2]): {"identity": REMOTE_NODE, "flags": NODE},
        # One outside its own ranges is not believed.
        bytes([10, 0, 2, 1]): {
            "identity": REMOTE_NODE,
            "flags": ROUTER,
            "tunnel_family": 4,
            "tunnel": raw(ip_address("192.0.2.2")),
        },
    }
    here = Node("n1", OWN.addresses, (ip_address("10.0.1.1"),), OWN.ranges)
    values = [value for _, value in address_rows(here, "n1", ranges)]
    assert values == [{"identity": HOST, "flags": NODE | LOCAL}, {"identity": HOST, "flags": ROUTER | LOCAL}]


def test_tunnels_end_at_ipv4_first() -> None:
    assert tunnel_of(node("a", addresses=("2001:db8::1", "192.0.2.9"))) == ip_address("192.0.2.9")
    assert tunnel_of(node("a", addresses=("2001:db8::1",))) == ip_address("2001:db8::1")
    assert tunnel_of(node("a")) is None


def test_addresses_as_keys() -> None:
    assert host_prefix(ip_address("1.2.3.4")) == {"length": 64, "family": 4, "address": bytes([1, 2, 3, 4]) + bytes(12)}
    assert host_prefix(ip_address("::1"))["length"] == 32 + 128
    assert prefix(ip_network("10.0.0.0/8")) == {"length": 40, "family": 4, "address": bytes([10]) + bytes(15)}
    assert family(ip_network("::/0")) == 6
