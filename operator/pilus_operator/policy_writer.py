"""Policies, written: conditions and `enforced`, through the status subresource, and Events.

In: policies, nodes' words about them, and nodes. Out: one patch a second at most for each policy, and Events of what is not as it
was declared; of a kind without a status Events alone.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from pilus_api.connection import ApiError, Connection, NotFound, Object, Unavailable
from pilus_api.errors import InvalidError
from pilus_api.policy_kinds import POLICY_KINDS
from pilus_api.watch import Key
from pilus_operator.facts import Realised
from pilus_operator.policies import Policies, Policy, policy_of
from pilus_operator.reconcile import each

# Nodes tell of a new policy one after the other; its status need not be written for each.
PAUSE_SECONDS = 1.0
_LONGEST_EVENT = 1024  # what an API server takes
_MOST_PODS = 32  # that are told of one generation of a policy
_BUILTIN = {kind.path: kind for kind in POLICY_KINDS if kind.builtin}


class PolicyWriter:
    """`check` raises InvalidError for an object that means nothing."""

    def __init__(self, connection: Connection, check: Callable[[Object], object], pause: float = PAUSE_SECONDS) -> None:
        self._connection = connection
        self._check = check
        self._pause = pause
        self._policies = Policies()
        self._uids: dict[tuple[str, Key], str] = {}
        self._told: dict[str, tuple[int, set[tuple[str, str]]]] = {}  # by policy: generation; pods' uids with what they were told

    def policy(self, collection: str, key: Key, raw: Object | None) -> None:
        """A policy of the collection at that path, or that it has gone. Another one of its name is another policy."""
        metadata = raw["metadata"] if raw else {}
        former = self._uids.pop((collection, key), "")
        if former and former != metadata.get("uid"):
            self._policies.remove_policy(former)
            self._told.pop(former, None)
        if raw is None:
            return
        self._uids[collection, key] = metadata["uid"]
        if (builtin := _BUILTIN.get(collection)) is not None:
            raw = {**raw, "apiVersion": builtin.version, "kind": builtin.name}  # which items of a list don't bear
        error = ""
        try:
            self._check(raw)
        except InvalidError as invalid:
            error = str(invalid)
        namespace = f"namespaces/{metadata['namespace']}/" if metadata.get("namespace") else ""
        group, _, plural = collection.rpartition("/")
        path = "" if builtin else f"{group}/{namespace}{plural}/{metadata['name']}/status"
        self._policies.set_policy(metadata["uid"], policy_of(raw, path, error))

    def node(self, name: str, present: bool) -> None:
        self._policies.set_node(name, present)

    def said(self, node: str, said: Mapping[str, Realised]) -> None:
        self._policies.set_said(node, said)

    async def write(self) -> float | None:
        """Write what differs; only to be called when nodes and their statuses are in sync."""
        todo = sorted(self._policies.dirty)
        if not todo:
            return None
        self._policies.dirty.clear()
        await each(todo, self._write)
        await asyncio.sleep(self._pause)
        return 0.0 if self._policies.dirty else None

    async def _write(self, uid: str) -> None:
        policy = self._policies.policies.get(uid)
        if policy is not None:
            await self._tell_pods(uid, policy.generation)
        status = self._policies.patch(uid, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")) if policy else None
        if policy is None or status is None:
            return
        news = self._policies.news(uid, status)
        try:
            if policy.path:
                # With the uid, a policy of the same name that came in between is not taken for this one.
                made = await self._connection.patch(policy.path, {"metadata": {"uid": uid}, "status": status})
                status = made.get("status") or {}
            else:
                await self._tell_all(policy, news)
        except NotFound:
            return  # gone, and the watch tells us
        except Unavailable:
            self._policies.dirty.add(uid)
            if policy.path:
                raise
            return  # nothing else says it, so it is tried again; other kinds' conditions don't wait for a limit on Events
        except BaseException:
            self._policies.dirty.add(uid)
            raise
        self._policies.written(uid, status)
        if policy.path:
            with contextlib.suppress(Unavailable):  # the condition stands
                await self._tell_all(policy, news)

    async def _tell_all(self, policy: Policy, news: Iterable[tuple[str, str]]) -> None:
        for reason, message in news:
            await self._tell(dict(policy.about), reason, message)

    async def _tell_pods(self, uid: str, generation: int) -> None:
        """An Event for each pod that the policy governs otherwise than it is written, once for what is missing; for some of them,
        if they are many."""
        before, told = self._told.get(uid, (generation, set()))
        told = told if before == generation else set()
        for (namespace, name, pod), message in self._policies.troubled(uid):
            if (pod, message) in told or len(told) >= _MOST_PODS:
                continue
            about = {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace, "uid": pod}
            with contextlib.suppress(Unavailable):
                await self._tell(about, "PolicyNotInForce", message)
                told.add((pod, message))
        if told:
            self._told[uid] = generation, told
        else:
            self._told.pop(uid, None)

    async def _tell(self, about: Object, reason: str, message: str) -> None:
        """An Event, for who looks at the object with `kubectl describe`. Raises Unavailable where another try may do better. An
        operator that starts anew does not write the same one again."""
        now = datetime.now(UTC)
        mark = hashlib.sha256(f"{about['uid']} {reason} {message}".encode()).hexdigest()[:16]
        namespace = about["namespace"] or "default"  # where Events of what is in no namespace are
        event = {
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": f"{about['name'][:200]}.{mark}", "namespace": namespace},
            "involvedObject": {key: value for key, value in about.items() if value}, "type": "Warning", "reason": reason,
            "message": message[:_LONGEST_EVENT], "count": 1, "source": {"component": "pilus-operator"},
            "firstTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}", "lastTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }  # fmt: skip
        try:
            await self._connection.post(f"/api/v1/namespaces/{namespace}/events", event)
        except Unavailable:
            raise
        except ApiError:
            return  # it stands there already, or nobody may: its namespace goes
