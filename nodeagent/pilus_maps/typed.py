"""One pinned map, with records instead of bytes."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pilus_maps import syscall
from pilus_maps.layout import Layout, Record
from pilus_maps.syscall import KernelError

_PER_CPU = {"percpu_array", "percpu_hash", "lru_percpu_hash"}
# ENOTSUPP is the kernel's own, and Python has no name for it.
_NO_BATCH = (524, errno.EOPNOTSUPP, errno.EINVAL)


def possible_cpus() -> int:
    """How many values a per-CPU map has for one key (kernel: cpu_possible_mask)."""
    with open("/sys/devices/system/cpu/possible") as file:  # noqa: PTH123  # read once
        last = file.read().strip().rpartition(",")[2].rpartition("-")[2]
    return int(last) + 1


class TypedMap:
    """`key` and `value` are the layouts; the raw forms take and give bytes."""

    def __init__(self, name: str, described: Mapping[str, Any]) -> None:
        self.name = name
        self.kind: str = described["type"]
        self.max_entries: int = described["max_entries"]
        self.key = Layout(described["key"]) if described["key"]["size"] else None
        self.value = Layout(described["value"])
        self.fd = syscall.open_pin(described["pin"])
        self._cpus = possible_cpus() if self.kind in _PER_CPU else 1
        self._stride = (self.value.size + 7) // 8 * 8 if self._cpus > 1 or self.kind in _PER_CPU else self.value.size

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _keys(self) -> Layout:
        if self.key is None:
            raise TypeError(f"map {self.name} has no keys")
        return self.key

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def lookup_raw(self, key: bytes) -> bytes | None:
        return syscall.lookup(self.fd, key, self._stride * self._cpus)

    def items_raw(self) -> dict[bytes, bytes]:
        """Everything, in one batch where the kernel can, else key by key."""
        size = self._keys.size
        try:
            return dict(syscall.lookup_batch(self.fd, size, self._stride * self._cpus))
        except KernelError as error:
            if error.number not in _NO_BATCH:
                raise
        found: dict[bytes, bytes] = {}
        key = syscall.next_key(self.fd, None, size)
        while key is not None:
            value = self.lookup_raw(key)
            if value is not None:
                found[key] = value
            key = syscall.next_key(self.fd, key, size)
        return found

    def update_raw(self, pairs: Mapping[bytes, bytes]) -> None:
        """Write all. Raises KernelError at the first that is refused (E2BIG: the map is full); those before it are written."""
        keys = list(pairs)
        if len(keys) == 1:
            syscall.update(self.fd, keys[0], pairs[keys[0]])
        elif keys:
            done, number = syscall.update_batch(self.fd, keys, [pairs[key] for key in keys])
            if number in _NO_BATCH and not done:
                for key in keys:
                    syscall.update(self.fd, key, pairs[key])
            elif number:
                raise KernelError(f"map {self.name}: {done} of {len(keys)} rows written", number)

    def delete_raw(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            syscall.delete(self.fd, key)

    # -- records -------------------------------------------------------------------------------------------------------

    def _decoded(self, raw: bytes) -> Any:
        if self.kind not in _PER_CPU:
            return self.value.decode(raw)
        return [self.value.decode(raw[i * self._stride : i * self._stride + self.value.size]) for i in range(self._cpus)]

    def lookup(self, key: Record | int) -> Any:
        """The record, a list of them by CPU for a per-CPU map, or None."""
        raw = self.lookup_raw(self._keys.encode(key))
        return None if raw is None else self._decoded(raw)

    def update(self, key: Record | int, value: Record | int) -> None:
        raw = self.value.encode(value)
        if self.kind in _PER_CPU:
            raw = raw.ljust(self._stride, b"\0") * self._cpus
        syscall.update(self.fd, self._keys.encode(key), raw)

    def delete(self, key: Record | int) -> bool:
        return syscall.delete(self.fd, self._keys.encode(key))

    def items(self) -> Iterator[tuple[Any, Any]]:
        for key, value in self.items_raw().items():
            yield self._keys.decode(key), self._decoded(value)

    def clear(self) -> None:
        self.delete_raw(list(self.items_raw()))
