"""Whatever policies say: what a node tells of them is an object that an API server takes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_agent.objects import node_status
from pilus_agent.status_limits import ROOM
from pilus_api.resources.model import parse
from pilus_api.resources.pilusnodestatus import MOST_PODS, PilusNodeStatus, RealisedPolicy


def said(uid: str = "u", **more: Any) -> dict[str, Any]:
    return {
        "uid": uid, "generation": 1, "realised": True, "error": "", "unenforced": [], "notes": [], "audited": False, "selected": 0,
        "pods": [], **more,
    }  # fmt: skip


def told(*policies: dict[str, Any]) -> list[RealisedPolicy]:
    """As the API server reads it. Raises InvalidError for what it would refuse."""
    return list(parse(PilusNodeStatus, node_status("n1", "u", "1.0", ready=True, policies=policies)).status.policies)


def test_what_is_short_is_told_as_it_is() -> None:
    policy = said(
        error="e" * 4096, unenforced=["f" * 512] * 40, notes=["n"], pods=[{"namespace": "n", "name": "p", "uid": "u"}] * MOST_PODS
    )
    (found,) = node_status("n1", "u", "1.0", ready=True, policies=[policy])["status"]["policies"]
    assert found == policy


@pytest.mark.parametrize("name", ["unenforced", "notes"])
def test_of_a_long_list_the_rest_is_counted(name: str) -> None:
    paths = [f"spec.ingress[{number}]" for number in range(1010)]
    (found,) = told(said() | {name: paths})
    assert list(getattr(found, name)) == [*paths[:39], "and 971 more"]
    (found,) = told(said() | {name: [*paths[:100], "and 910 more like these"]})
    assert list(getattr(found, name)) == [*paths[:39], "and 971 more"], "what was counted before is counted again"


def test_long_texts_have_an_end() -> None:
    (found,) = told(said(error="e" * 5000, unenforced=["f" * 513], notes=["n" * 100_000]))
    assert found.error == "e" * 4095 + "…"
    assert found.unenforced == ["f" * 511 + "…"]
    assert found.notes == ["n" * 511 + "…"]


def test_a_pod_that_can_not_be_is_not_told() -> None:
    good = {"namespace": "n", "name": "p", "uid": "u"}
    (found,) = told(said(error="e", pods=[good | {"name": "p" * 254}, *[good] * 20, good | {"namespace": "n" * 64}]))
    assert [pod.name for pod in found.pods] == ["p"] * MOST_PODS


def test_all_together_have_room_and_who_says_little_is_told_of() -> None:
    """An API server's store takes 1.5 MiB; what it says of who wrote what is about as long as a policy without any words."""
    pods = [{"namespace": "n" * 63, "name": "p" * 253, "uid": "u" * 36}] * MOST_PODS
    loud = [
        said(str(number), error="\x01é<" * 2000, unenforced=["<\x02" * 256] * 900, notes=["&" * 512] * 100, pods=pods)
        for number in range(1000)
    ]
    quiet = said("quiet", unenforced=["spec.egress[0].toFQDNs", "spec.ingress[1].toPorts[0].rules.http"])
    found = told(*loud, quiet)
    assert len(found) == 1001
    assert list(found[-1].unenforced) == quiet["unenforced"]
    assert all(held.error.endswith("…") for held in found[:-1])
    stored = json.dumps(node_status("n1", "u", "1.0", ready=True, policies=[*loud, quiet]))
    assert len(stored) + 5 * sum(map(stored.count, "<>&")) < 2 * ROOM


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers(0, 6000).map(
    lambda size: "<é\x00😀" * (size // 4)
)
LISTS = st.lists(TEXTS, max_size=4).flatmap(lambda held: st.sampled_from([0, 1, 11, 400]).map(lambda times: held * times))
PODS = st.fixed_dictionaries({"namespace": TEXTS, "name": TEXTS, "uid": TEXTS})
POLICIES = st.builds(said, error=TEXTS, unenforced=LISTS, notes=LISTS, pods=st.lists(PODS, max_size=20))


@given(policies=st.lists(POLICIES, max_size=3))
def test_whatever_they_say_the_object_is_valid(policies: list[dict[str, Any]]) -> None:
    assert len(told(*policies)) == len(policies)
