"""What is wanted of one table against what is held, kept as two dicts and the difference between them. Pure.

Each change costs work in proportion to itself; both sides can be replaced whole at any time (a restart, a map that somebody
else has written), with the same result.
"""

from collections.abc import Iterable, Mapping


class DeltaTracker:
    """Keys and values are bytes, as the kernel has them."""

    def __init__(self) -> None:
        self.wanted: dict[bytes, bytes] = {}
        self.held: dict[bytes, bytes] = {}
        self.updates: dict[bytes, bytes] = {}  # to be written
        self.deletes: set[bytes] = set()  # to be removed

    def _settle(self, key: bytes) -> None:
        value = self.wanted.get(key)
        held = self.held.get(key)
        self.updates.pop(key, None)
        self.deletes.discard(key)
        if value is None:
            if held is not None:
                self.deletes.add(key)
        elif value != held:
            self.updates[key] = value

    def want(self, key: bytes, value: bytes | None) -> None:
        """None: it is wanted no more."""
        if value is None:
            if self.wanted.pop(key, None) is None and key not in self.held:
                return
        else:
            self.wanted[key] = value
        self._settle(key)

    def want_all(self, wanted: Mapping[bytes, bytes]) -> None:
        """This and nothing else."""
        for key in self.wanted.keys() - wanted.keys():
            self.want(key, None)
        for key, value in wanted.items():
            if self.wanted.get(key) != value:
                self.want(key, value)

    def hold_all(self, held: Mapping[bytes, bytes]) -> None:
        """What the kernel says it has."""
        keys = self.held.keys() | held.keys() | self.wanted.keys()
        self.held = dict(held)
        for key in keys:
            self._settle(key)

    def wrote(self, rows: Mapping[bytes, bytes]) -> None:
        for key, value in rows.items():
            self.held[key] = value
            self._settle(key)

    def removed(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.held.pop(key, None)
            self._settle(key)

    @property
    def settled(self) -> bool:
        return not self.updates and not self.deletes
