"""Identities: which label sets need a number, which number each has, and which numbers nobody needs any more.

In: pods, namespaces, CiliumIdentity objects, the numbers that endpoints still carry, and the time. Out: label sets to allocate,
numbers to try, marks to set and remove, objects to delete. Pure: no clock, no network. A label set stands here as `security-labels`
does in the object: sorted pairs of `source:key` and value.

A label set may have several objects (a former leader's last write); the lowest number is the one that counts. A number that was
released rests an hour, so that no late packet or late node takes a new pod for the old one.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass

from pilus_api.identities import FIRST_ALLOCATED, LAST_ALLOCATED, Identity, identity_labels
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import SOURCE_RESERVED, Labels, security_labels
from pilus_api.watch import Key
from pilus_operator.facts import IdentityObject, Pod

REST_SECONDS = 3600.0

Pairs = tuple[tuple[str, str], ...]


def asks_for_fixed(labels: Pairs) -> bool:
    """Whether this is not a pod's labels, but the name of a fixed identity that it asks for."""
    return len(labels) == 1 and labels[0][0].startswith(f"{SOURCE_RESERVED}:")


class PodIdentities:
    """Pods and namespaces -> the label set of each pod, kept up as either changes."""

    def __init__(self, keep: IdentityFilter, cluster: str) -> None:
        self._keep = keep
        self._cluster = cluster
        self._namespaces: dict[str, Pairs] = {}
        self._pods: dict[Key, Pod] = {}
        self._by_namespace: dict[str, set[Key]] = {}
        self._labels: dict[Key, Pairs] = {}
        self._users: dict[Pairs, set[Key]] = {}
        # Pods of one template have one set; it is computed, and kept, once.
        self._computed: dict[tuple[Pairs, str, str], Pairs] = {}

    def set_pod(self, key: Key, pod: Pod) -> None:
        self._pods[key] = pod
        self._by_namespace.setdefault(key.namespace, set()).add(key)
        self._compute(key)

    def remove_pod(self, key: Key) -> None:
        if self._pods.pop(key, None) is not None:
            held = self._by_namespace[key.namespace]
            held.discard(key)
            if not held:
                del self._by_namespace[key.namespace]
        self._compute(key)

    def set_namespace(self, name: str, labels: Pairs) -> Iterable[Key]:
        """Returns the pods whose label set was computed anew."""
        if self._namespaces.get(name) == labels:
            return ()
        self._namespaces[name] = labels
        self._drop_computed(name)
        keys = tuple(self._by_namespace.get(name, ()))
        for key in keys:
            self._compute(key)
        return keys

    def remove_namespace(self, name: str) -> None:
        """Its pods keep their label sets until they are gone themselves."""
        self._namespaces.pop(name, None)
        self._drop_computed(name)

    def _drop_computed(self, namespace: str) -> None:
        for given in [given for given in self._computed if given[1] == namespace]:
            del self._computed[given]

    def _compute(self, key: Key) -> None:
        former, labels = self._labels.get(key), self._wanted(key)
        if former == labels:
            return
        if former is not None:
            del self._labels[key]
            users = self._users[former]
            users.discard(key)
            if not users:
                del self._users[former]
        if labels is not None:
            self._labels[key] = labels
            self._users.setdefault(labels, set()).add(key)

    def _wanted(self, key: Key) -> Pairs | None:
        pod = self._pods.get(key)
        if pod is None or pod.host_network or pod.finished:
            return None
        namespace = self._namespaces.get(key.namespace)
        if namespace is None:
            return self._labels.get(key)
        given = (pod.labels, key.namespace, pod.service_account)
        if given not in self._computed:
            # Every rollout brings labels (a template's hash) that will not be asked for again.
            if len(self._computed) > 2 * len(self._pods) + 1000:
                self._computed.clear()
            every = identity_labels(dict(pod.labels), key.namespace, dict(namespace), pod.service_account, self._cluster)
            self._computed[given] = tuple(sorted(security_labels(self._keep(every)).items()))
        return self._computed[given]

    def pod(self, key: Key) -> Pod | None:
        return self._pods.get(key)

    def labels_of(self, key: Key) -> Pairs | None:
        """None: the pod needs no identity, or its namespace is not known yet."""
        return self._labels.get(key)

    def users_of(self, labels: Pairs) -> Set[Key]:
        return self._users.get(labels, frozenset())

    @property
    def used(self) -> Set[Pairs]:
        return self._users.keys()


class Numbers:
    """CiliumIdentity objects -> the number of each label set, and which number comes next."""

    def __init__(self, cluster_id: int = 0, cursor: int = 0, fixed: Mapping[Identity, Labels] | None = None) -> None:
        """`fixed`: numbers that settings give to names."""
        self._fixed = {tuple(security_labels(labels).items()): number for number, labels in (fixed or {}).items()}
        base = cluster_id << 16
        self._first, self._last = base | (0 if cluster_id else FIRST_ALLOCATED), base | LAST_ALLOCATED
        self.cursor = cursor if self._first <= cursor <= self._last else self._first
        self.objects: dict[Identity, IdentityObject] = {}
        self._by_labels: dict[Pairs, set[Identity]] = {}
        self._refused: set[Identity] = set()
        self._resting: dict[Identity, float] = {}
        self._order: deque[tuple[float, Identity]] = deque()

    def set(self, number: Identity, found: IdentityObject) -> None:
        former = self.objects.get(number)
        if former is not None and former.labels != found.labels:
            self._forget(number, former.labels)
        self.objects[number] = found
        self._by_labels.setdefault(found.labels, set()).add(number)

    def remove(self, number: Identity, now: float) -> Pairs | None:
        """Returns the label set that it stood for."""
        former = self.objects.pop(number, None)
        if former is None:
            return None
        self._forget(number, former.labels)
        self._resting[number] = now + REST_SECONDS
        self._order.append((now + REST_SECONDS, number))
        return former.labels

    def _forget(self, number: Identity, labels: Pairs) -> None:
        held = self._by_labels[labels]
        held.discard(number)
        if not held:
            del self._by_labels[labels]

    def of(self, labels: Pairs) -> Identity | None:
        """The number that counts for a label set: its lowest."""
        if asks_for_fixed(labels):
            return self._fixed.get(labels)
        return min(self._by_labels.get(labels, ()), default=None)

    def lacks(self, labels: Pairs) -> bool:
        """Whether a number is to be allocated. Never for a name that nobody has given one: such a pod has no identity."""
        return self.of(labels) is None and not asks_for_fixed(labels)

    def refuse(self, number: Identity) -> None:
        """The API server has it already, though we have not seen it yet."""
        self._refused.add(number)

    def next(self, now: float) -> Identity | None:
        """The next free number, round-robin; None if there is none."""
        while self._order and self._order[0][0] <= now:
            until, number = self._order.popleft()
            if self._resting.get(number) == until:
                del self._resting[number]
        for _ in range(self._last - self._first + 1):
            number = Identity(self.cursor)
            self.cursor = self.cursor + 1 if self.cursor < self._last else self._first
            if number not in self.objects and number not in self._resting and number not in self._refused:
                return number
        # What was refused long ago may be free by now; what rests is not.
        self._refused.clear()
        return None


@dataclass(frozen=True, slots=True)
class Mark:
    """Say that nobody uses it, or (`unused` false) that somebody does again."""

    number: Identity
    unused: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Only as long as it is this very version: whoever takes it into use removes the mark first, which is a write."""

    number: Identity
    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class Collection:
    """What one round of collection judges by.

    used: the label sets that pods need. carried: the numbers that endpoints carry, which keep an object alive though its labels
    are nobody's (the node has not changed over yet). marked: since when, by our clock, we have seen each mark. wait: how long
    a mark has to stand.
    """

    numbers: Numbers
    used: Container[Pairs]
    carried: Container[int]
    marked: Mapping[Identity, float]
    wait: float

    def judge(self, number: Identity, now: float) -> Mark | Delete | None:
        held = self.numbers.objects.get(number)
        if held is None:
            return None
        in_use = number in self.carried or (held.labels in self.used and self.numbers.of(held.labels) == number)
        if in_use:
            return Mark(number, unused=False) if held.unused_since else None
        if not held.unused_since:
            return Mark(number, unused=True)
        return Delete(number, held.uid, held.version) if now - self.marked.get(number, now) >= self.wait else None

    def plan(self, now: float) -> list[Mark | Delete]:
        judged = (self.judge(number, now) for number in self.numbers.objects)
        return [action for action in judged if action is not None]
