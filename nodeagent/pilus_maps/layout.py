"""Records and bytes: a struct of bpf/abi.h, as the loader describes it, packed and unpacked.

A record is a dict by field name; fields left out are zero, names that are not there are an error. A byte array and an address
are bytes; an array of numbers is a tuple; a number is host endian whatever the struct says. A struct in a struct is read as
bytes, and may be given as bytes or as a record.
"""

import struct
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

Record = Mapping[str, Any]


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


class Layout:
    """One struct. A bare number (`u32`) is a struct with one field without a name, and its record is the number itself."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        self.size: int = described["size"]
        self._fields: list[Mapping[str, Any]] = list(described["fields"])
        self.names = tuple(field["name"] for field in self._fields)
        self.bare = self.names == ("",)
        code = "="
        for field in self._fields:
            if field["fields"] is not None or (field["size"] == 1 and field["count"]):
                code += f"{field['size'] * max(field['count'], 1)}s"
            else:
                code += _CODES[field["size"]] * max(field["count"], 1)
        self._struct = struct.Struct(code)
        if self._struct.size != self.size:
            raise ValueError(f"fields of {self._struct.size} bytes in a struct of {self.size}")

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _inner(self) -> dict[str, "Layout"]:
        return {field["name"]: Layout(field) for field in self._fields if field["fields"] is not None}

    def encode(self, record: "Record | int") -> bytes:
        if isinstance(record, int):
            record = {"": record}
        if not record.keys() <= self._known:
            raise KeyError(f"no such field: {', '.join(sorted(record.keys() - self._known))}")
        values: list[Any] = []
        for field in self._fields:
            value = record.get(field["name"])
            count, size = field["count"], field["size"]
            if field["fields"] is not None and isinstance(value, Mapping):
                values.append(self._inner[field["name"]].encode(value))
            elif field["fields"] is not None or (size == 1 and count):
                values.append(value or b"")
            elif count:
                numbers = value or (0,) * count
                values += (_swapped(number, size) for number in numbers) if field["network"] else numbers
            else:
                number = value or 0
                values.append(_swapped(number, size) if field["network"] else number)
        return self._struct.pack(*values)

    def decode(self, raw: bytes) -> Any:
        values = iter(self._struct.unpack(raw))
        record: dict[str, Any] = {}
        for field in self._fields:
            count, size = field["count"], field["size"]
            if field["fields"] is not None or (size == 1 and count):
                record[field["name"]] = next(values)
            elif count:
                numbers = tuple(next(values) for _ in range(count))
                record[field["name"]] = tuple(_swapped(number, size) for number in numbers) if field["network"] else numbers
            else:
                number = next(values)
                record[field["name"]] = _swapped(number, size) if field["network"] else number
        return record[""] if self.bare else record
