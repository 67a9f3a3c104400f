"""Metrics, and where they are served."""

import asyncio
import urllib.error
import urllib.request

import pytest

from pilus_api.errors import InvalidError, TemporaryError
from pilus_api.listener import address, metrics_listener
from pilus_observer.counters import Count
from pilus_observer.history import History
from pilus_observer.metrics import Metrics, summed

from .make import event, until

COUNTS = [
    Count("pod_from", "egress", 0, None, 5, 500),
    Count("overlay_to", "egress", 0, None, 2, 200),
    Count("pod_from", "egress", 133, "Policy denied", 3, 300),
    Count("hook 9", None, 133, "Policy denied", 1, 100),
]
AUDITED = [
    Count("pod_from", "egress", 0, None, 2, 200, audited=True),
    Count("pod_to", "ingress", 0, None, 4, 400, audited=True),
    Count("overlay_from", "ingress", 0, None, 1, 100, audited=True),
]


def test_counters_of_hooks_that_see_the_same_way_are_summed() -> None:
    assert summed(COUNTS) == {
        (None, "EGRESS"): (7, 700),
        ("Policy denied", "EGRESS"): (3, 300),
        ("Policy denied", "UNKNOWN"): (1, 100),
    }


def lines(metrics: Metrics, counts: list[Count]) -> set[str]:
    return {line for line in metrics.text(counts).decode().splitlines() if not line.startswith("#") and "_created" not in line}


def test_what_is_counted_exactly() -> None:
    found = lines(Metrics(History()), COUNTS)
    assert {
        'pilus_drop_packets_total{direction="EGRESS",reason="Policy denied"} 3.0',
        'pilus_drop_bytes_total{direction="EGRESS",reason="Policy denied"} 300.0',
        'pilus_drop_packets_total{direction="UNKNOWN",reason="Policy denied"} 1.0',
        'pilus_forward_packets_total{direction="EGRESS"} 7.0',
        'pilus_forward_bytes_total{direction="EGRESS"} 700.0',
        'hubble_lost_events_total{source="observer_events_queue"} 0.0',
    } <= found


def test_what_policies_in_audit_mode_would_refuse_is_counted_beside_what_passes() -> None:
    """What passed was counted as such already."""
    found = lines(Metrics(History()), COUNTS + AUDITED)
    assert {
        'pilus_audited_connections_total{direction="EGRESS"} 2.0',
        'pilus_audited_connections_total{direction="INGRESS"} 5.0',
        'pilus_forward_packets_total{direction="EGRESS"} 7.0',
    } <= found


def test_what_events_tell() -> None:
    history = History(queue=1)
    metrics = Metrics(history)
    metrics.count(event(reason=133, protocol=6, suppressed=4), "POLICY_DENIED")
    metrics.count(event(reason=133, protocol=1), "POLICY_DENIED")
    metrics.count(event(protocol=17, path="tunnel"), "")
    metrics.count(event(protocol=47, path="pod"), "")
    metrics.broken()
    with history.subscribe():
        history.publish([event(), event(), event()])
    assert {
        'hubble_drop_total{protocol="TCP",reason="POLICY_DENIED"} 5.0',
        'hubble_drop_total{protocol="ICMPv4",reason="POLICY_DENIED"} 1.0',
        'hubble_flows_processed_total{protocol="TCP",subtype="",type="Drop",verdict="DROPPED"} 5.0',
        'hubble_flows_processed_total{protocol="UDP",subtype="to-overlay",type="Trace",verdict="FORWARDED"} 1.0',
        'hubble_flows_processed_total{protocol="Unknown flow",subtype="to-endpoint",type="Trace",verdict="FORWARDED"} 1.0',
        "pilus_observer_events_total 4.0",
        "pilus_observer_events_suppressed_total 4.0",
        "pilus_observer_events_broken_total 1.0",
        "pilus_observer_events_lost_total 2.0",
    } <= lines(metrics, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9965", (None, 9965)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:80", ("::1", 80)),
        ("9965", None),
        ("host:", None),
        (":65536", None),
        (":-1", None),
        (":²", None),
    ],
)
def test_address(text: str, expected: tuple[str | None, int] | None) -> None:
    if expected is None:
        with pytest.raises(InvalidError):
            address(text)
    else:
        assert address(text) == expected


def get(port: int, path: str = "/metrics") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_listener_serves_and_says_when_it_can_not() -> None:
    said: list[bytes] = [b"x 1\n"]

    async def text() -> bytes:
        if not said:
            raise TemporaryError("no maps")
        return said.pop()

    listener = metrics_listener("127.0.0.1:0", text)
    task = asyncio.create_task(listener.run())
    await until(lambda: listener.port)
    assert await asyncio.to_thread(get, listener.port) == (200, b"x 1\n")
    assert await asyncio.to_thread(get, listener.port) == (503, b"no maps\n")
    assert (await asyncio.to_thread(get, listener.port, "/"))[0] == 404
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_port_that_is_taken_is_tried_again() -> None:
    async def text() -> bytes:
        return b""

    holder = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    listener = metrics_listener(f"127.0.0.1:{port}", text, retry=0.001)
    task = asyncio.create_task(listener.run())
    await asyncio.sleep(0)
    assert not listener.port
    holder.close()
    await holder.wait_closed()
    await until(lambda: listener.port)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
