"""Identities, written: CiliumIdentity objects are created as soon as a pod object exists, and collected when nobody needs them.

In: events of pods, namespaces, identities and endpoints. Out: creates, marks and deletes; and, for the slices, which pods'
identities have changed.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import structlog

from pilus_api.connection import AlreadyExists, Conflict, Connection, NotFound, Object
from pilus_api.errors import TemporaryError
from pilus_api.identities import Identity, fixed_identities
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import NAMESPACE_KEY
from pilus_api.settings import Settings
from pilus_api.watch import Key
from pilus_operator import facts
from pilus_operator.identities import Collection, Delete, Mark, Numbers, Pairs, PodIdentities
from pilus_operator.metrics import Metrics
from pilus_operator.reconcile import each

IDENTITIES: Final = "/apis/cilium.io/v2/ciliumidentities"

Clock = Callable[[], float]

_log = structlog.get_logger(__name__)


def identity_object(number: Identity, labels: Pairs) -> Object:
    """The object to create. Its namespace stands in its own labels, for `kubectl get ciliumid -l`."""
    namespace = dict(labels).get(f"k8s:{NAMESPACE_KEY}", "")
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": str(number), "labels": {NAMESPACE_KEY: namespace}},
        "security-labels": dict(labels),
    }


class IdentityWriter:
    """`relevant`: which labels make an identity; without it as the setting `labels` alone has it."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        metrics: Metrics,
        cursor: int = 0,
        clock: Clock = time.monotonic,
        relevant: IdentityFilter | None = None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self.pods = PodIdentities(IdentityFilter(settings.labels) if relevant is None else relevant, settings.cluster_name)
        self.numbers = Numbers(settings.cluster_id, cursor, fixed_identities(settings.fixed_identity_mapping))
        self.in_sync = False
        self._missing: dict[Pairs, None] = {}
        self._marked: dict[Identity, float] = {}

    def reconfigure(self, settings: Settings) -> None:
        self._settings = settings

    # -- events; each returns the pods whose identity may have changed --------------------------------------------------------

    def pod(self, key: Key, found: facts.Pod | None) -> Iterable[Key]:
        if found is None:
            self.pods.remove_pod(key)
        else:
            self.pods.set_pod(key, found)
            self._look(key)
        return (key,)

    def namespace(self, name: str, labels: Pairs | None) -> Iterable[Key]:
        if labels is None:
            self.pods.remove_namespace(name)
            return ()
        changed = self.pods.set_namespace(name, labels)
        for key in changed:
            self._look(key)
        return changed

    def identity(self, name: str, found: facts.IdentityObject | None) -> Iterable[Key]:
        if not name.isdecimal():
            return ()
        number = Identity(int(name))
        if found is None:
            labels = self.numbers.remove(number, self._clock())
            self._marked.pop(number, None)
        else:
            labels = found.labels
            former = self.numbers.objects.get(number)
            self.numbers.set(number, found)
            if not found.unused_since:
                self._marked.pop(number, None)
            else:
                self._marked.setdefault(number, self._clock())
            if former is not None and former.labels == labels:
                return ()
        self._metrics.identities.set(len(self.numbers.objects))
        users = self.pods.users_of(labels) if labels is not None else ()
        if users and labels is not None and self.numbers.lacks(labels):
            self._missing[labels] = None
        return tuple(users)

    def _look(self, key: Key) -> None:
        labels = self.pods.labels_of(key)
        if labels is not None and self.numbers.lacks(labels):
            self._missing[labels] = None

    def identity_of(self, key: Key) -> Identity | None:
        """The identity of a pod by our own computation; None while there is none."""
        labels = self.pods.labels_of(key)
        return self.numbers.of(labels) if labels is not None else None

    # -- writes --------------------------------------------------------------------------------------------------------------

    async def allocate(self, changed: Callable[[Iterable[Key]], None]) -> None:
        """Create what is missing. Does nothing before every existing identity is known: it might be among them."""
        if not self.in_sync:
            return
        todo = list(self._missing)
        self._missing.clear()

        async def create(labels: Pairs) -> None:
            try:
                await self._create(labels)
            except BaseException:
                self._missing[labels] = None
                raise
            changed(tuple(self.pods.users_of(labels)))

        await each(todo, create)

    async def _create(self, labels: Pairs) -> None:
        while self.numbers.lacks(labels) and self.pods.users_of(labels):
            number = self.numbers.next(self._clock())
            if number is None:
                raise TemporaryError("no identity is free: all numbers are in use, or were an hour ago")
            try:
                made = await self._connection.post(IDENTITIES, identity_object(number, labels))
            except AlreadyExists:
                self.numbers.refuse(number)
                continue
            self.identity(str(number), facts.identity(made))
            self._metrics.allocated.inc()

    async def collect(self, carried: frozenset[int]) -> None:
        """One round; only to be called when pods, namespaces, identities and endpoints are all in sync."""
        wait = self._settings.identity_heartbeat_timeout
        judge = Collection(self.numbers, self.pods.used, carried, self._marked, wait)
        plan = judge.plan(self._clock())
        deleted = 0

        async def act(action: Mark | Delete) -> None:
            nonlocal deleted
            path = f"{IDENTITIES}/{action.number}"
            try:
                if isinstance(action, Delete):
                    # Between plan and act a pod may have come that needs it.
                    if judge.judge(action.number, self._clock()) != action:
                        return
                    await self._connection.delete(path, uid=action.uid, resource_version=action.version)
                    deleted += 1
                    self.identity(str(action.number), None)
                else:
                    held = self.numbers.objects[action.number]
                    since = datetime.now(UTC).isoformat(timespec="seconds") if action.unused else None
                    patch = {"metadata": {"resourceVersion": held.version, "annotations": {facts.UNUSED_SINCE: since}}}
                    self.identity(str(action.number), facts.identity(await self._connection.patch(path, patch)))
            except (Conflict, NotFound, KeyError):
                return  # somebody was faster; the watch brings what is so, the next round looks again

        try:
            await each(plan, act)
        except BaseException:
            self._metrics.collections.labels("fail").inc()
            raise
        self._metrics.collections.labels("success").inc()
        self._metrics.collected.labels("alive").set(len(self.numbers.objects))
        self._metrics.collected.labels("deleted").set(deleted)
        if plan:
            _log.info("collected identities", deleted=deleted, left=len(self.numbers.objects))
