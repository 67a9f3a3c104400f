"""Who serves what: cases, and the same answer on every road to a state."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_agent.desired.services import Backend, BackendSet, Frontend, ServiceTable, State, frontends_of, ordered, set_name
from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort

NODE = "n1"
HTTP, TARGET = ServicePort("http", 6, 80), ServicePort("http", 6, 8080)
WEB = Service("default", "web", "ClusterIP", (ip_address("10.96.0.10"),), (HTTP,))
ENDING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}


def end(last: int, *, node: str = NODE, **said: Any) -> ServiceEndpoint:
    return ServiceEndpoint(ip_address(f"10.0.0.{last}"), node=node, **said)


def held(*endpoints: ServiceEndpoint, port: ServicePort = TARGET, service: str = "default/web") -> EndpointSlice:
    return EndpointSlice(service, (port,), endpoints)


def shown(found: Mapping[Frontend, BackendSet]) -> dict[str, list[str]]:
    """`address:port/protocol` -> `address:port`, with a `~` before what is terminating."""
    return {
        f"{front.address}:{front.port}/{front.protocol}": [
            f"{'~' if one.state is State.TERMINATING else ''}{one.address}:{one.port}" for one in backends
        ]
        for front, backends in found.items()
    }


def of(service: Service, *slices: EndpointSlice) -> dict[str, list[str]]:
    found = shown(frontends_of(service, slices, NODE))
    return {front: backends for front, backends in found.items() if not front.endswith(":0/0")}


@pytest.mark.parametrize(
    ("service", "slices", "expected"),
    [
        pytest.param(WEB, [], {"10.96.0.10:80/6": []}, id="nobody"),
        pytest.param(WEB, [held(end(2), end(1))], {"10.96.0.10:80/6": ["10.0.0.1:8080", "10.0.0.2:8080"]}, id="in one order"),
        pytest.param(WEB, [held(end(1)), held(end(2))], {"10.96.0.10:80/6": ["10.0.0.1:8080", "10.0.0.2:8080"]}, id="two slices"),
        pytest.param(
            WEB,
            [held(end(1)), held(end(2), port=replace(TARGET, port=9090))],
            {"10.96.0.10:80/6": ["10.0.0.1:8080", "10.0.0.2:9090"]},
            id="another target port in another slice",
        ),
        pytest.param(WEB, [held(end(1)), held(end(1, **ENDING))], {"10.96.0.10:80/6": ["10.0.0.1:8080"]}, id="in two slices"),
        pytest.param(WEB, [held(end(1, ready=False, serving=False))], {"10.96.0.10:80/6": []}, id="not ready"),
        pytest.param(WEB, [held(end(1, ready=True, serving=False))], {"10.96.0.10:80/6": ["10.0.0.1:8080"]}, id="published early"),
        pytest.param(WEB, [held(end(1), end(2, **ENDING))], {"10.96.0.10:80/6": ["10.0.0.1:8080"]}, id="one is ending"),
        pytest.param(WEB, [held(end(2, **ENDING))], {"10.96.0.10:80/6": ["~10.0.0.2:8080"]}, id="all are ending"),
        pytest.param(
            WEB, [held(end(2, ready=False, serving=False, terminating=True))], {"10.96.0.10:80/6": []}, id="ended, serves no more"
        ),
        pytest.param(WEB, [held(end(1), port=replace(TARGET, name="other"))], {"10.96.0.10:80/6": []}, id="another port's name"),
        pytest.param(WEB, [held(end(1), port=replace(TARGET, protocol=17))], {"10.96.0.10:80/6": []}, id="another protocol"),
        pytest.param(replace(WEB, addresses=()), [held(end(1))], {}, id="headless"),
        pytest.param(replace(WEB, ports=(ServicePort("s", 132, 80),)), [held(end(1))], {}, id="sctp"),
        pytest.param(
            replace(WEB, local_only=True),
            [held(end(1), end(2, node="n2"))],
            {"10.96.0.10:80/6": ["10.0.0.1:8080"]},
            id="local: the other node's is not asked",
        ),
        pytest.param(replace(WEB, local_only=True), [held(end(2, node="n2"))], {"10.96.0.10:80/6": []}, id="local: nobody here"),
        pytest.param(
            replace(WEB, local_only=True),
            [held(end(1, **ENDING), end(2, node="n2"))],
            {"10.96.0.10:80/6": ["~10.0.0.1:8080"]},
            id="local: ours is ending, another's is ready",
        ),
    ],
)
def test_frontends(service: Service, slices: list[EndpointSlice], expected: dict[str, list[str]]) -> None:
    assert of(service, *slices) == expected


def test_families_do_not_mix() -> None:
    both = replace(WEB, addresses=(ip_address("10.96.0.10"), ip_address("fd00:96::10")))
    six = ServiceEndpoint(ip_address("fd00::1"))
    assert of(both, held(end(1)), held(six)) == {"10.96.0.10:80/6": ["10.0.0.1:8080"], "fd00:96::10:80/6": ["fd00::1:8080"]}


def test_every_other_port_of_an_address_is_refused() -> None:
    assert shown(frontends_of(WEB, [], NODE))["10.96.0.10:0/0"] == []


def test_a_set_is_named_by_its_backends() -> None:
    one, other = Backend(ip_address("10.0.0.1"), 80), Backend(ip_address("10.0.0.2"), 80)
    assert set_name(ordered([one, other])) == set_name(ordered([other, one]))
    names = {
        set_name(ordered(found))
        for found in ([], [one], [other], [one, other], [replace(one, port=81)], [replace(one, state=State.TERMINATING)])
    }
    assert len(names) == 6


def test_two_services_with_one_address() -> None:
    """The first by name has it, whoever came first; when it goes, the other has it."""
    table = ServiceTable(NODE)
    table.put_slice("default/x", held(end(9), service="default/zzz"))
    table.put_service("default/zzz", replace(WEB, name="zzz"))
    table.put_slice("default/w", held(end(1)))
    table.put_service("default/web", WEB)
    table.take_changes()
    assert shown(table.frontends)["10.96.0.10:80/6"] == ["10.0.0.1:8080"]
    table.put_service("default/web", None)
    assert shown({key: value for key, value in table.take_changes().items() if value}) == {"10.96.0.10:80/6": ["10.0.0.9:8080"]}


def test_a_slice_that_goes_over_to_another_service() -> None:
    table = ServiceTable(NODE)
    table.put_service("default/web", WEB)
    table.put_service("default/api", replace(WEB, name="api", addresses=(ip_address("10.96.0.11"),)))
    table.put_slice("default/s", held(end(1)))
    table.take_changes()
    table.put_slice("default/s", held(end(1), service="default/api"))
    table.take_changes()
    found = shown(table.frontends)
    assert (found["10.96.0.10:80/6"], found["10.96.0.11:80/6"]) == ([], ["10.0.0.1:8080"])


def test_a_change_concerns_what_it_changes() -> None:
    table = ServiceTable(NODE)
    table.put_service("default/web", WEB)
    table.put_slice("default/s", held(end(1)))
    assert len(table.take_changes()) == 2
    table.put_service("default/web", WEB)
    table.put_slice("default/s", held(end(1)))
    assert table.take_changes() == {}


# -- every road leads to the same state ------------------------------------------------------------------------------------

NAMES = ("default/a", "default/b")
ADDRESSES = tuple(ip_address(text) for text in ("10.96.0.1", "10.96.0.2", "fd00:96::1"))
endpoints = st.builds(
    ServiceEndpoint,
    address=st.sampled_from([ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1")]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from(["n1", "n2"]),
)
services = st.builds(
    Service,
    namespace=st.just("default"),
    name=st.just("x"),
    addresses=st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple),
    ports=st.lists(st.sampled_from([HTTP, ServicePort("dns", 17, 53)]), max_size=2, unique=True).map(tuple),
    local_only=st.booleans(),
)
slices = st.builds(
    EndpointSlice,
    service=st.sampled_from(["", *NAMES]),
    ports=st.lists(st.sampled_from([TARGET, ServicePort("dns", 17, 5353)]), max_size=2, unique=True).map(tuple),
    endpoints=st.lists(endpoints, max_size=3).map(tuple),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("service"), st.sampled_from(NAMES), st.none() | services),
        st.tuples(st.just("slice"), st.sampled_from(["default/s", "default/t"]), st.none() | slices),
        st.tuples(st.just("look"), st.just(""), st.none()),
    ),
    max_size=12,
)


def play(events: Iterable[tuple[str, str, Any]]) -> tuple[dict[Frontend, BackendSet], ServiceTable]:
    """What somebody who takes every change has in the end."""
    table = ServiceTable(NODE)
    kept: dict[Frontend, BackendSet] = {}
    for what, key, fact in (*events, ("look", "", None)):
        if what == "service":
            table.put_service(key, fact)
        elif what == "slice":
            table.put_slice(key, fact)
        else:
            for frontend, backends in table.take_changes().items():
                if backends is None:
                    del kept[frontend]
                else:
                    kept[frontend] = backends
    return kept, table


@given(steps)
def test_the_road_does_not_matter(events: list[tuple[str, str, Any]]) -> None:
    kept, table = play(events)
    last: dict[tuple[str, str], Any] = {(what, key): fact for what, key, fact in events if what != "look"}
    straight = [(what, key, fact) for (what, key), fact in sorted(last.items(), key=lambda item: item[0]) if fact is not None]
    assert kept == play(straight)[0] == play(reversed(straight))[0] == play([*straight, *straight])[0]
    assert kept == table.frontends
