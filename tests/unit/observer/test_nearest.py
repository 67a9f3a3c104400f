"""What would have been let pass: asked of the agent, seldom and together."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from pilus_api.errors import TemporaryError
from pilus_api.rule_numbers import default_deny, rule_number
from pilus_maps.layout import Layout
from pilus_observer import nearest
from pilus_observer.events import Decoder, End, Event
from pilus_observer.nearest import Nearest, refusal_of

from .make import event

RECORD: dict[str, Any] = {
    "policy": 7, "rule": 0, "direction": 1, "source_identity": 300, "destination_identity": 301, "family": 4, "source_port": 4000,
    "destination_port": 80, "source": bytes([10, 0, 0, 1]) + bytes(12), "destination": bytes([10, 0, 0, 2]) + bytes(12),
}  # fmt: skip
WEB, CLIENT = End("10.0.0.9", 8080, 300), End("10.0.0.1", 40000, 301)


def refused(port: int | None = 8080, *, direction: int = 0, protocol: int = 6, number: int | None = None) -> Event:
    held = default_deny(7, direction) if number is None else number
    return event(CLIENT, End("10.0.0.9", port, 300), rule=held, protocol=protocol, reason=133)


class Agent:
    """Answers with the port, in words."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.away = False
        self.slow = False

    async def __call__(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        assert question["get"] == "nearest"
        self.asked.append(question["refusals"])
        if self.slow:
            await asyncio.sleep(60)
        if self.away:
            raise TemporaryError("nobody")
        return [{"nearest": f"not {one['port']}" if one["port"] != 1 else None} for one in question["refusals"]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "PATIENCE", 0.05)


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (refused(), (7, 0, 301, "10.0.0.1", 6, 8080)),
        (refused(direction=1), (7, 1, 300, "10.0.0.9", 6, 8080)),
        (refused(number=rule_number(7, 3)), None),
        (refused(number=0), None),
        (refused(None, protocol=47), None),
        (replace(refused(None, protocol=1), icmp_type=8), (7, 0, 301, "10.0.0.1", 1, 8)),
        (replace(refused(None, protocol=58), icmp_type=0), (7, 0, 301, "10.0.0.1", 58, 0)),
        (replace(refused(), reply=True), None),
    ],
)
def test_what_is_asked(of: Event, expected: object) -> None:
    assert refusal_of(of) == expected


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        ({"protocol": 6}, 80),
        ({"protocol": 1, "icmp_type": 8}, 8),
        ({"protocol": 58, "family": 6, "icmp_type": 128}, 128),
    ],
)
@pytest.mark.parametrize("verdict", ["DROPPED", "AUDIT"])
async def test_records_of_the_ring(description: dict[str, Any], of: dict[str, Any], asked: int, verdict: str) -> None:
    """What is refused and what would be, by port and by type of ICMP."""
    record = RECORD | ({"reason": 133} if verdict == "DROPPED" else {"audited": 1}) | of
    found = Decoder(description).decode(Layout(description["maps"]["events"]["value"]).encode(record), 0.0)
    assert found.verdict == verdict
    agent = Agent()
    made = Nearest(agent)
    await made.prepare([found])
    ((question,),) = agent.asked
    peer = {"policy": 7, "direction": 1, "identity": 301, "address": found.destination.address}
    assert question == peer | {"protocol": of["protocol"], "port": asked}
    assert made.text(found) == f"not {asked}"


async def test_refusals_are_asked_about_together_and_once() -> None:
    agent = Agent()
    made = Nearest(agent)
    events = [refused(), refused(8081), refused(8080), refused(number=0), refused(1)]
    await made.prepare(events)
    assert sorted(one["port"] for one in agent.asked[0]) == [1, 8080, 8081]
    assert [made.text(one) for one in events] == ["not 8080", "not 8081", "not 8080", None, None]
    await made.prepare(events)
    assert len(agent.asked) == 1


async def test_not_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    made = Nearest(agent)
    await made.prepare([refused()])
    await made.prepare([refused(9)])
    assert len(agent.asked) == 1
    monkeypatch.setattr(nearest, "REST", 0.0)
    made = Nearest(agent)
    for port in range(100, 103):
        await made.prepare([refused(port)])
    assert len(agent.asked) == 4


@pytest.mark.parametrize("how", ["away", "slow"])
async def test_without_an_agent_events_go_on(how: str) -> None:
    agent = Agent()
    setattr(agent, how, True)
    made = Nearest(agent)
    async with asyncio.timeout(1):
        await made.prepare([refused()])
    assert made.text(refused()) is None


async def test_a_flood_of_different_ones_is_bounded() -> None:
    agent = Agent()
    made = Nearest(agent)
    await made.prepare([refused(port) for port in range(1, 20000)])
    assert [len(asked) for asked in agent.asked] == [64]
