"""Which flows decide anew when a row changes."""

from ipaddress import ip_address

import pytest

from pilus_agent.desired.addresses import raw
from pilus_agent.diff.generations import EVERYTHING, address_slot, endpoint_slot, raised


@pytest.mark.parametrize(("number", "slot"), [(1, 1), (32767, 32767), (32768, 1), (65535, 1)])
def test_an_endpoint_has_a_slot_below_those_of_addresses(number: int, slot: int) -> None:
    assert endpoint_slot(number) == slot


def test_addresses_spread_over_the_upper_half() -> None:
    slots = [address_slot(raw(ip_address(f"10.0.{third}.{fourth}"))) for third in range(16) for fourth in range(256)]
    assert min(slots) >= 32768
    assert max(slots) <= 65535
    assert len(set(slots)) > 3700, "4,096 addresses in 32,768 slots meet each other 245 times if they are spread evenly"


def test_an_ipv4_address_is_its_first_word_alone() -> None:
    word = int.from_bytes(ip_address("10.0.0.1").packed, "little")
    assert address_slot(raw(ip_address("10.0.0.1"))) == 32768 + ((word * 0x9E3779B1 & 0xFFFFFFFF) >> 17)


def test_an_endpoints_row_raises_its_slots_old_and_new_and_its_address() -> None:
    address = raw(ip_address("10.0.0.7"))
    assert raised("endpoints", {"address": address}, [{"slot": 3}, {"slot": 9}]) == {3, 9, address_slot(address)}


def test_an_address_row_raises_the_address_alone() -> None:
    address = raw(ip_address("fd00::7"))
    assert raised("ipcache", {"address": address}, [None, {"identity": 7}]) == {address_slot(address)}


@pytest.mark.parametrize("table", ["settings", "pod_ranges"])
def test_what_everybody_rests_on_raises_everything(table: str) -> None:
    assert raised(table, {}, [{}]) == {EVERYTHING}


@pytest.mark.parametrize("table", ["verdicts", "policies", "identities", "cidrs"])
def test_what_no_flow_can_have_rested_on_raises_nothing(table: str) -> None:
    assert raised(table, {}, [{}]) == set()
