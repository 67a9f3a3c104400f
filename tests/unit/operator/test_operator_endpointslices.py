"""Slices: what is believed of an endpoint, stable membership, and when a slice is due."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import count

import pytest

from pilus_api.connection import Object
from pilus_api.identities import Identity
from pilus_api.watch import Key
from pilus_operator.endpointslices import MOST, PAUSE_SECONDS, Slices, accepted, slice_object
from pilus_operator.facts import Address, EndpointObject, Pod

POD = Pod("u", (), "", "n1", False, False)
ENDPOINT = EndpointObject(777, "u", (ip_address("10.44.1.5"), ip_address("fd00:44:0:1::5")), (("web", 80, "TCP"),), 0)
ENTRY: Object = {
    "id": 300,
    "networking": {"addressing": [{"ipv4": "10.44.1.5", "ipv6": "fd00:44:0:1::5"}], "node": "192.0.2.1"},
    "encryption": {},
    "named-ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
}


def owns(node: str, address: Address) -> bool:
    held = ("10.44.1.0/24", "fd00:44:0:1::/64") if node == "n1" else ("10.44.2.0/24",)
    return any(address in ip_network(text) for text in held)


def test_the_identity_is_ours_and_the_node_the_scheduler_s() -> None:
    assert accepted(ENDPOINT, POD, Identity(300), "192.0.2.1", owns) == (ENTRY, [])


@pytest.mark.parametrize(
    ("what", "endpoint", "pod", "identity", "node"),
    [
        ("no pod", ENDPOINT, None, 300, "192.0.2.1"),
        ("not scheduled", ENDPOINT, replace(POD, node=""), 300, "192.0.2.1"),
        ("on the host's network", ENDPOINT, replace(POD, host_network=True), 300, "192.0.2.1"),
        ("finished", ENDPOINT, replace(POD, finished=True), 300, "192.0.2.1"),
        ("no identity yet", ENDPOINT, POD, None, "192.0.2.1"),
        ("its node has no address", ENDPOINT, POD, 300, ""),
        ("of an earlier pod", replace(ENDPOINT, pod_uid="other"), POD, 300, "192.0.2.1"),
        ("no address", replace(ENDPOINT, addresses=()), POD, 300, "192.0.2.1"),
    ],
)
def test_what_other_nodes_could_not_use_is_no_entry(
    what: str, endpoint: EndpointObject, pod: Pod | None, identity: int | None, node: str
) -> None:
    assert accepted(endpoint, pod, Identity(identity) if identity else None, node, owns) == (None, [])


def test_an_address_outside_the_node_s_ranges_is_refused() -> None:
    stolen, own = ip_address("10.44.2.5"), ip_address("fd00:44:0:1::5")
    entry, refused = accepted(replace(ENDPOINT, addresses=(stolen, own)), POD, Identity(300), "192.0.2.1", owns)
    assert entry is not None
    assert entry["networking"]["addressing"] == [{"ipv6": "fd00:44:0:1::5"}]
    assert refused == [stolen]
    assert accepted(ENDPOINT, replace(POD, node="n2"), Identity(300), "192.0.2.2", owns) == (None, list(ENDPOINT.addresses))


def slices() -> Slices:
    numbers = count(1)
    return Slices(lambda: f"ces-{next(numbers)}")


def write(made: Slices, now: float) -> list[str]:
    """Write what is due; returns which slices, with `-` before those that are deleted."""
    done = []
    for name in made.due(now):
        _, members = made.begin(name, now)
        made.wrote(name, members or None, str(now))
        done.append(name if members else f"-{name}")
    return done


def where(made: Slices, key: Key) -> str:
    return next(name for name, held in made.slices.items() if held.namespace == key.namespace and key.name in held.members)


def test_the_first_change_is_due_at_once_and_what_follows_is_written_together() -> None:
    made = slices()
    made.set(Key("ns", "a"), ENTRY)
    assert write(made, 10.0) == ["ces-1"]
    made.set(Key("ns", "b"), ENTRY)
    made.set(Key("ns", "c"), ENTRY)
    assert write(made, 10.1) == []
    assert made.next_due() == 10.0 + PAUSE_SECONDS
    assert write(made, 10.5) == ["ces-1"]
    assert made.next_due() is None
    made.set(Key("ns", "c"), {**ENTRY, "id": 5})
    assert write(made, 99.0) == ["ces-1"], "idle for long: at once"


def test_what_comes_and_goes_between_two_writes_costs_none() -> None:
    made = slices()
    made.set(Key("ns", "a"), ENTRY)
    write(made, 0.0)
    made.set(Key("ns", "b"), ENTRY)
    made.set(Key("ns", "b"), None)
    made.set(Key("ns", "a"), dict(ENTRY))
    assert (write(made, 9.0), made.next_due()) == ([], None)


def test_a_slice_holds_one_namespace_and_a_hundred_endpoints() -> None:
    made = slices()
    for number in range(MOST + 1):
        made.set(Key("ns", f"p{number}"), ENTRY)
    made.set(Key("other", "p0"), ENTRY)
    sizes = sorted((held.namespace, len(held.members)) for held in made.slices.values())
    assert sizes == [("ns", 1), ("ns", MOST), ("other", 1)]


def test_endpoints_stay_where_they_are_and_holes_are_filled() -> None:
    made = slices()
    keys = [Key("ns", f"p{number}") for number in range(MOST + 50)]
    for key in keys:
        made.set(key, ENTRY)
    before = {key: where(made, key) for key in keys}
    made.set(keys[3], None)
    made.set(Key("ns", "new"), ENTRY)
    assert where(made, Key("ns", "new")) == before[keys[0]], "the fullest that has room"
    for key in keys[:3] + keys[4:]:
        made.set(key, {**ENTRY, "id": 9})
        assert where(made, key) == before[key]


def test_an_empty_slice_is_deleted_and_one_never_written_forgotten() -> None:
    made = slices()
    made.set(Key("ns", "a"), ENTRY)
    made.set(Key("ns", "a"), None)
    assert (made.slices, write(made, 0.0)) == ({}, [])
    made.set(Key("ns", "a"), ENTRY)
    write(made, 1.0)
    made.set(Key("ns", "a"), None)
    made.set(Key("ns", "never"), None)
    assert write(made, 9.0) == ["-ces-2"]
    assert made.slices == {}


def test_an_earlier_leader_s_slices_are_gone_on_with() -> None:
    made = slices()
    made.adopt("old-1", "ns", [{"name": "a", **ENTRY}, {"name": "b", **ENTRY}], "5")
    made.adopt("old-2", "ns", [{"name": "b", **ENTRY}, {"name": "c", **ENTRY}], "6")
    assert sorted(made.members()) == [Key("ns", "a"), Key("ns", "b"), Key("ns", "c")]
    for name in "abc":
        made.set(Key("ns", name), ENTRY)
    assert write(made, 0.0) == ["old-2"], "b stands in both; it leaves the second"
    assert sorted(made.slices["old-2"].members) == ["c"]


def test_what_others_did_to_a_slice_is_undone() -> None:
    made = slices()
    made.set(Key("ns", "a"), ENTRY)
    write(made, 0.0)
    made.adopt("ces-1", "ns", [{"name": "a", **ENTRY}, {"name": "forged", **ENTRY}], "9")
    assert write(made, 1.0) == ["ces-1"]
    made.vanished("ces-1")
    assert made.slices["ces-1"].written is None
    assert write(made, 2.0) == ["ces-1"]
    made.vanished("nobody-knows")


def test_the_object_names_its_endpoints() -> None:
    assert slice_object("ces-1", "ns", {"b": ENTRY, "a": ENTRY}, "7") == {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumEndpointSlice",
        "metadata": {"name": "ces-1", "resourceVersion": "7"},
        "namespace": "ns",
        "endpoints": [{"name": "a", **ENTRY}, {"name": "b", **ENTRY}],
    }
