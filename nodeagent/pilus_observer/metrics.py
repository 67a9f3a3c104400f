"""Metrics: what the programs counted, exact, and what the events tell, in the names that flow tools' dashboards know.

In: counters when somebody scrapes, events as they come. Out: Prometheus text. Event metrics count an event and the alike ones
that the kernel left out before it; those may have been of another protocol.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric

from pilus_observer import words
from pilus_observer.counters import Count
from pilus_observer.events import Event
from pilus_observer.history import History

# Where a packet went, as flow tools call the place that saw it.
_POINTS = {"pod": "to-endpoint", "tunnel": "to-overlay", "host": "to-host"}
_PROTOCOLS = {1: "ICMPv4", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


class _Collector:
    """Counters as they were read for this scrape."""

    def __init__(self, history: History) -> None:
        self.counts: list[Count] = []
        self._history = history

    def collect(self) -> Iterator[Metric]:
        dropped = CounterMetricFamily("pilus_drop_packets", "Packets dropped", labels=["reason", "direction"])
        dropped_bytes = CounterMetricFamily("pilus_drop_bytes", "Bytes of packets dropped", labels=["reason", "direction"])
        passed = CounterMetricFamily("pilus_forward_packets", "Packets passed", labels=["direction"])
        passed_bytes = CounterMetricFamily("pilus_forward_bytes", "Bytes of packets passed", labels=["direction"])
        audited = CounterMetricFamily(
            "pilus_audited_connections", "Connections passed that a policy in audit mode would refuse", labels=["direction"]
        )
        for (_, direction), (packets, _) in summed(count for count in self.counts if count.audited).items():
            audited.add_metric([direction], packets)
        for (reason, direction), (packets, size) in summed(count for count in self.counts if not count.audited).items():
            if reason is None:
                passed.add_metric([direction], packets)
                passed_bytes.add_metric([direction], size)
            else:
                dropped.add_metric([reason, direction], packets)
                dropped_bytes.add_metric([reason, direction], size)
        yield from (dropped, dropped_bytes, passed, passed_bytes, audited)
        lost = CounterMetricFamily("hubble_lost_events", "Events that a slow listener lost", labels=["source"])
        lost.add_metric(["observer_events_queue"], self._history.lost)
        yield lost
        yield CounterMetricFamily("pilus_observer_events_lost", "Events that a slow listener lost", value=self._history.lost)


def summed(counts: Iterable[Count]) -> dict[tuple[str | None, str], tuple[int, int]]:
    """By reason and direction: two hooks may see the same way."""
    found: dict[tuple[str | None, str], tuple[int, int]] = {}
    for count in counts:
        key = (count.reason, (count.direction or "unknown").upper())
        packets, size = found.get(key, (0, 0))
        found[key] = (packets + count.packets, size + count.bytes)
    return found


class Metrics:
    def __init__(self, history: History) -> None:
        self.registry = CollectorRegistry()
        self._collector = _Collector(history)
        self.registry.register(self._collector)
        self._events = Counter("pilus_observer_events", "Events read", registry=self.registry)
        self._suppressed = Counter(
            "pilus_observer_events_suppressed", "Events that the kernel left out, of those with events read since",
            registry=self.registry,
        )  # fmt: skip
        self._broken = Counter("pilus_observer_events_broken", "Records that are no events", registry=self.registry)
        self.swept = Counter("pilus_observer_flows_expired", "Expired flow entries deleted", ["table"], registry=self.registry)
        self._drops = Counter("hubble_drop", "Drops seen as events", ["reason", "protocol"], registry=self.registry)
        self._flows = Counter(
            "hubble_flows_processed", "Events by what they tell", ["protocol", "type", "subtype", "verdict"],
            registry=self.registry,
        )  # fmt: skip

    def count(self, event: Event, flow_reason: str) -> None:
        """`flow_reason`: the reason in flow tools' words."""
        protocol = _PROTOCOLS.get(event.protocol, "Unknown flow")
        alike = 1 + event.suppressed
        self._events.inc()
        self._suppressed.inc(event.suppressed)
        if event.verdict == words.DROPPED:
            self._drops.labels(flow_reason, protocol).inc(alike)
            self._flows.labels(protocol, "Drop", "", event.verdict).inc(alike)
        else:
            self._flows.labels(protocol, "Trace", _POINTS.get(event.path, ""), event.verdict).inc(alike)

    def broken(self) -> None:
        self._broken.inc()

    def text(self, counts: list[Count]) -> bytes:
        self._collector.counts = counts
        return generate_latest(self.registry)
