"""Who is the active operator: a Lease in kube-system.

In: the Lease as the API server has it, and our own monotonic clock (clocks of different machines are never compared). Out: we lead,
or we don't. `judge` is pure. A Lease does not fence: a paused leader that wakes up may still write, so each kind of write has to
be harmless then.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from pilus_api.connection import AlreadyExists, ApiError, Conflict, Connection, NotFound, Object

LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
NAME: Final = "pilus-operator"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. Who has not renewed for `lease` is taken for dead; who could not for `renew` stops by itself, well before."""

    lease: float = 12.0
    renew: float = 8.0
    retry: float = 2.0


@dataclass(frozen=True, slots=True)
class Observed:
    """A holder's last sign of life, and when we, by our clock, saw it first."""

    holder: str
    sign: str
    lease: float
    seen: float


def observe(lease: Object, former: Observed | None, now: float) -> Observed:
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    sign = f"{spec.get('renewTime')} {spec.get('leaseTransitions')}"
    seen = former.seen if former and (former.holder, former.sign) == (holder, sign) else now
    return Observed(holder, sign, float(spec.get("leaseDurationSeconds") or 0), seen)


def judge(observed: Observed, ourselves: str, now: float) -> bool:
    """Whether we may take the Lease: it is ours, nobody's, or its holder has given no sign for as long as it promised to."""
    return observed.holder in ("", ourselves) or now - observed.seen >= observed.lease


def claim(lease: Object, ourselves: str, times: Times, when: datetime, notes: Mapping[str, str]) -> Object:
    """The Lease as we write it; it keeps its resourceVersion, so of two takers one fails."""
    spec = dict(lease.get("spec") or {})
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if spec.get("holderIdentity") != ourselves:
        spec |= {"acquireTime": stamp, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    spec |= {"holderIdentity": ourselves, "renewTime": stamp, "leaseDurationSeconds": math.ceil(times.lease)}
    metadata = dict(lease.get("metadata") or {"name": NAME, "namespace": "kube-system"})
    metadata["annotations"] = dict(metadata.get("annotations") or {}) | dict(notes)
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


class Election:
    """Our part in the election. `notes` are annotations that the leader leaves for its successor."""

    def __init__(
        self, connection: Connection, ourselves: str, times: Times | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self.ourselves = ourselves
        self._times = times or Times()
        self._clock = clock
        self._observed: Observed | None = None
        self._lease: Object = {}
        self.renewed = float("-inf")

    async def acquire(self) -> Mapping[str, str]:
        """Wait until we lead; returns the notes of whoever led before."""
        said, failing = "", False
        while True:
            try:
                if await self._try():
                    return dict(self._lease["metadata"].get("annotations") or {})
                failing = False
            except ApiError as error:
                if not failing:
                    _log.warning("can't read or write the Lease, trying again", error=str(error))
                failing = True
            if self._observed and self._observed.holder not in ("", said, self.ourselves):
                said = self._observed.holder
                _log.info("another operator is active", holder=said)
            await asyncio.sleep(self._times.retry)

    async def _try(self) -> bool:
        begun = self._clock()
        try:
            lease = await self._connection.get(f"{LEASES}/{NAME}")
        except NotFound:
            lease = {}
        if lease:
            self._observed = observe(lease, self._observed, begun)
            if not judge(self._observed, self.ourselves, begun):
                return False
        return await self._write(lease, {})

    async def _write(self, lease: Object, notes: Mapping[str, str]) -> bool:
        # From before the request, because the others count from when it arrived.
        begun = self._clock()
        wanted = claim(lease, self.ourselves, self._times, datetime.now(UTC), notes)
        try:
            if lease:
                self._lease = await self._connection.put(f"{LEASES}/{NAME}", wanted)
            else:
                self._lease = await self._connection.post(LEASES, wanted)
        except (Conflict, AlreadyExists):
            return False
        self.renewed = begun
        return True

    async def hold(self, notes: Callable[[], Mapping[str, str]]) -> None:
        """Renew; returns when we lead no longer."""
        while True:
            await asyncio.sleep(self._times.retry)
            left = self.renewed + self._times.renew - self._clock()
            if left <= 0:
                _log.error("the Lease could not be renewed in time; standing back")
                return
            try:
                async with asyncio.timeout(left):
                    if not await self._write(self._lease, notes()) and not await self._reread():
                        _log.error("another operator took the Lease; standing back")
                        return
            except (ApiError, TimeoutError) as error:
                _log.warning("the Lease was not renewed, trying again", error=str(error) or "no answer in time")

    async def _reread(self) -> bool:
        """Whether it is still ours though somebody else wrote it (an annotation, say)."""
        try:
            self._lease = await self._connection.get(f"{LEASES}/{NAME}")
        except NotFound:
            return False
        return (self._lease.get("spec") or {}).get("holderIdentity") == self.ourselves

    async def release(self, notes: Mapping[str, str]) -> None:
        """Give it back, so that the next one need not wait. Its failure costs time only."""
        if (self._lease.get("spec") or {}).get("holderIdentity") != self.ourselves:
            return
        wanted = claim(self._lease, self.ourselves, self._times, datetime.now(UTC), notes)
        wanted["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._connection.put(f"{LEASES}/{NAME}", wanted)
            _log.info("gave the Lease back")
        except ApiError as error:
            _log.warning("the Lease could not be given back; the next operator waits for its end", error=str(error))
