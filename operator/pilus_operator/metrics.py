"""What the operator counts, in the names that dashboards know.

In: counts from the writers. Out: Prometheus text.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry of an operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leading = Gauge("pilus_operator_leading", "1 while this operator is the active one", registry=self.registry)
        self.failures = Counter("pilus_operator_failures", "Failed rounds", ["loop"], registry=self.registry)
        self.identities = Gauge("pilus_operator_identities", "CiliumIdentity objects", registry=self.registry)
        self.allocated = Counter("pilus_operator_identities_allocated", "Identities created", registry=self.registry)
        self.collected = Gauge(
            "cilium_operator_identity_gc_entries", "Identities in the last collection", ["status"], registry=self.registry
        )
        self.collections = Counter(
            "cilium_operator_identity_gc_runs", "Collections of identities", ["outcome"], registry=self.registry
        )
        self.ranges = Gauge("pilus_operator_ranges", "Claimed pod ranges", ["family"], registry=self.registry)
        self.refused_addresses = Gauge(
            "pilus_operator_refused_addresses", "Endpoints' addresses outside their node's ranges", registry=self.registry
        )
        self.slice_sizes = Histogram(
            "cilium_operator_number_of_ceps_per_ces", "Endpoints in a written slice", registry=self.registry,
            buckets=(1, 10, 25, 50, 100),
        )  # fmt: skip
        self.slice_writes = Counter("cilium_operator_ces_sync", "Writes of slices", ["outcome"], registry=self.registry)

    async def text(self) -> bytes:
        return generate_latest(self.registry)
