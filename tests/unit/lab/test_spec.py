"""Names, addresses and records of labs."""

from pathlib import Path

import pytest

from pilus_lab.spec import Spec


@pytest.fixture(autouse=True)
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["", "A", "1a", "a/b", "../a", "a" * 21, "a-", "a b", "a\n"])
def test_a_name_that_could_be_a_path_or_a_surprise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a lab"):
        Spec(name)


@pytest.mark.parametrize("nodes", [-1, 10])
def test_a_number_of_nodes_that_has_no_addresses_is_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match="0 to 9 nodes"):
        Spec("a", nodes)


def test_the_record_is_read_back_as_it_was_written() -> None:
    spec = Spec("try-1", 3, "ptp", {"cluster-name": "x"}, ("operator",), ("/sys/fs/cgroup/pids/pilus-lab-try-1",))
    spec.save()
    assert Spec.load("try-1") == spec


def test_nodes_have_addresses_of_both_families_and_no_two_the_same() -> None:
    nodes = Spec("a", 9).nodes
    addresses = {address for node in nodes for address in (node.ipv4, node.ipv6)}
    assert len(addresses) == 18
    assert str(nodes[0].ipv4) == "172.30.0.11"
    assert str(nodes[0].ipv6) == "fd00:30::11"
