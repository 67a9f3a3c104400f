"""The agent's metrics: what it holds, and what is not as wanted. Prometheus' text, at the setting `prometheus-serve-addr`.

In: the wiring's state, after each pass. Out: gauges. Never: anything of a packet, which the observer counts.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from pilus_agent.wiring import Wiring


class Metrics:
    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        info = Gauge("pilus_agent_info", "The agent's version.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self._ready = Gauge("pilus_agent_ready", "Whether pods can be made.", registry=self.registry)
        self._endpoints = Gauge("pilus_agent_endpoints", "Pods of this node, by state.", ["state"], registry=self.registry)
        self._rows = Gauge("pilus_agent_table_rows", "Rows that the kernel holds.", ["table"], registry=self.registry)
        self._room = Gauge("pilus_agent_table_rows_max", "Rows that there is room for.", ["table"], registry=self.registry)
        self._trouble = Gauge(
            "pilus_agent_trouble", "1 for what is not as wanted; see `pilus status`.", ["what"], registry=self.registry
        )
        self._passes = Counter("pilus_agent_passes", "How often everything was decided anew.", registry=self.registry)
        self._counted = 0

    def update(self, wiring: Wiring) -> None:
        self._ready.set(wiring.ready)
        states: dict[str, int] = {}
        for endpoint in wiring.endpoints.values():
            states[str(endpoint.state)] = states.get(str(endpoint.state), 0) + 1
        self._endpoints.clear()
        for state, count in states.items():
            self._endpoints.labels(state).set(count)
        for table, tracker in wiring.tables.trackers.items():
            self._rows.labels(table).set(len(tracker.held))
            self._room.labels(table).set(wiring.tables.layouts[table].max_entries)
        self._trouble.clear()
        for what in wiring.trouble:
            self._trouble.labels(what).set(1)
        self._passes.inc(wiring.passes - self._counted)
        self._counted = wiring.passes

    async def text(self) -> bytes:
        return generate_latest(self.registry)
