"""bpf(2), as far as Pilus needs it: objects by pin, map elements one by one and in batches, test runs.

In: descriptors and bytes. Out: bytes. Raises KernelError. Numbers and the layout of `union bpf_attr` are those of
linux/bpf.h, which never change.
"""

import ctypes
import errno
import os
import struct
from typing import Final

from pilus_api.errors import PilusError

_NUMBER: Final = {"x86_64": 321, "aarch64": 280}

_MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _PROG_TEST_RUN = 6, 7, 10
_OBJ_GET_INFO_BY_FD = 15
_LINK_CREATE, _LINK_UPDATE = 28, 29
_ENABLE_STATS = 32
_MAP_LOOKUP_BATCH, _MAP_UPDATE_BATCH, _MAP_DELETE_BATCH = 24, 26, 27

_libc = ctypes.CDLL(None, use_errno=True)
_call = _libc.syscall
_call.restype = ctypes.c_long
_call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long]


class KernelError(PilusError):
    """The kernel refused. `number` is the errno."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.number = number


def _bpf(command: int, attributes: "ctypes.Array[ctypes.c_char]", what: str) -> int:
    try:
        number = _NUMBER[os.uname().machine]
    except KeyError:
        raise KernelError(f"{what}: no bpf system call known on {os.uname().machine}", errno.ENOSYS) from None
    result = int(_call(number, command, attributes, len(attributes)))
    if result < 0:
        raise KernelError(what, ctypes.get_errno())
    return result


def _address(buffer: "ctypes.Array[ctypes.c_char]") -> int:
    return ctypes.addressof(buffer)


def open_pin(path: str) -> int:
    """A new descriptor of the map or program pinned at `path`."""
    name = ctypes.create_string_buffer(path.encode())
    return _bpf(_OBJ_GET, ctypes.create_string_buffer(struct.pack("=QII", _address(name), 0, 0), 16), f"can't open {path}")


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    keys, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        _bpf(_MAP_LOOKUP_ELEM, _element(fd, keys, value), "map lookup")
    except KernelError as error:
        if error.number == errno.ENOENT:
            return None
        raise
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE_ELEM, _element(fd, keys, values, flags), "map update")


def delete(fd: int, key: bytes) -> bool:
    """Whether it was there: deleting the absent is no error."""
    keys = ctypes.create_string_buffer(key, len(key))  # named: the attributes hold its address alone, and it must outlive them
    try:
        _bpf(_MAP_DELETE_ELEM, _element(fd, keys, None), "map delete")
    except KernelError as error:
        if error.number == errno.ENOENT:
            return False
        raise
    return True


def next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    found = ctypes.create_string_buffer(size)
    before = ctypes.create_string_buffer(key, size) if key is not None else None
    try:
        _bpf(_MAP_GET_NEXT_KEY, _element(fd, before, found), "map next key")
    except KernelError as error:
        if error.number == errno.ENOENT:
            return None
        raise
    return found.raw


def _element(
    fd: int, key: "ctypes.Array[ctypes.c_char] | None", value: "ctypes.Array[ctypes.c_char] | None", flags: int = 0
) -> "ctypes.Array[ctypes.c_char]":
    packed = struct.pack("=IIQQQ", fd, 0, _address(key) if key else 0, _address(value) if value else 0, flags)
    return ctypes.create_string_buffer(packed, len(packed))


def _batch(command: int, fd: int, buffers: tuple[int, int], count: int, cursor: tuple[int, int], what: str) -> tuple[int, int]:
    """(how many were done, errno or 0)."""
    packed = struct.pack("=QQQQIIQQ", *cursor, *buffers, count, fd, 0, 0)
    attributes = ctypes.create_string_buffer(packed, len(packed))
    try:
        _bpf(command, attributes, what)
    except KernelError as error:
        return struct.unpack_from("=I", attributes.raw, 32)[0], error.number
    return struct.unpack_from("=I", attributes.raw, 32)[0], 0


def update_batch(fd: int, keys: list[bytes], values: list[bytes]) -> tuple[int, int]:
    """Write many in one call: (how many were written, errno or 0)."""
    packed, filled = ctypes.create_string_buffer(b"".join(keys)), ctypes.create_string_buffer(b"".join(values))
    return _batch(_MAP_UPDATE_BATCH, fd, (_address(packed), _address(filled)), len(keys), (0, 0), "map batch update")


def delete_batch(fd: int, keys: list[bytes]) -> tuple[int, int]:
    """Delete many in one call; stops at the first that is not there: (how many are gone, errno or 0)."""
    packed = ctypes.create_string_buffer(b"".join(keys))
    return _batch(_MAP_DELETE_BATCH, fd, (_address(packed), 0), len(keys), (0, 0), "map batch delete")


def lookup_batch(fd: int, key_size: int, value_size: int, chunk: int = 4096) -> list[tuple[bytes, bytes]]:
    """Everything in the map, whose cursor is at most as wide as its key or 4 bytes."""
    found: list[tuple[bytes, bytes]] = []
    width = max(key_size, 4)
    before, after = ctypes.create_string_buffer(width), ctypes.create_string_buffer(width)
    keys, values = ctypes.create_string_buffer(key_size * chunk), ctypes.create_string_buffer(value_size * chunk)
    started = False
    while True:
        cursor = (_address(before) if started else 0, _address(after))
        count, number = _batch(_MAP_LOOKUP_BATCH, fd, (_address(keys), _address(values)), chunk, cursor, "map batch lookup")
        if number == errno.ENOSPC and not count:  # a bucket with more than fits
            chunk *= 2
            keys, values = ctypes.create_string_buffer(key_size * chunk), ctypes.create_string_buffer(value_size * chunk)
            continue
        if number not in (0, errno.ENOENT):
            raise KernelError("map batch lookup", number)
        raw_keys, raw_values = keys.raw, values.raw
        found += [
            (raw_keys[i * key_size : (i + 1) * key_size], raw_values[i * value_size : (i + 1) * value_size]) for i in range(count)
        ]
        if number == errno.ENOENT:
            return found
        before.raw = after.raw
        started = True


def test_run(fd: int, data: bytes, context: bytes, repeat: int) -> tuple[int, bytes, int]:
    """(return value, the packet afterwards, mean ns a run)."""
    given, room = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(len(data) + 512)
    before, after = ctypes.create_string_buffer(context, len(context)), ctypes.create_string_buffer(len(context))
    packed = struct.pack("=IIIIQQIIIIQQIII", fd, 0, len(data), len(room), _address(given), _address(room), repeat, 0,
                         len(context), len(context), _address(before) if context else 0, _address(after) if context else 0,
                         0, 0, 0)  # fmt: skip
    attributes = ctypes.create_string_buffer(packed, len(packed))
    _bpf(_PROG_TEST_RUN, attributes, "program test run")
    value, _, size = struct.unpack_from("=III", attributes.raw, 4)
    duration = struct.unpack_from("=I", attributes.raw, 36)[0]
    return value, room.raw[:size], duration


def program_info(fd: int) -> dict[str, int]:
    """`id`, translated instructions, how many the verifier looked at (5.16); runs, and their time (see `enable_statistics`)."""
    info = ctypes.create_string_buffer(256)
    packed = struct.pack("=IIQ", fd, len(info), _address(info))
    _bpf(_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(packed, len(packed)), "program info")
    kind, number = struct.unpack_from("=II", info.raw, 0)
    translated = struct.unpack_from("=I", info.raw, 20)[0]
    nanoseconds, runs = struct.unpack_from("=QQ", info.raw, 192)
    verified = struct.unpack_from("=I", info.raw, 216)[0]
    return {"type": kind, "id": number, "instructions": translated // 8, "verified": verified,
            "nanoseconds": nanoseconds, "runs": runs}  # fmt: skip


def enable_statistics() -> int:
    """A descriptor: as long as it is open, the kernel counts every program's runs and their time, for 20 to 70 ns a run (5.8)."""
    return _bpf(_ENABLE_STATS, ctypes.create_string_buffer(struct.pack("=I", 0), 4), "enable statistics")


def program_instructions(fd: int) -> bytes:
    """The program as the kernel runs it: 8 bytes an instruction."""
    room = ctypes.create_string_buffer(program_info(fd)["instructions"] * 8)
    info = ctypes.create_string_buffer(256)
    struct.pack_into("=I", info, 20, len(room))
    struct.pack_into("=Q", info, 32, _address(room))
    packed = struct.pack("=IIQ", fd, len(info), _address(info))
    _bpf(_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(packed, len(packed)), "program instructions")
    return room.raw


def pin(fd: int, path: str) -> None:
    name = ctypes.create_string_buffer(path.encode())
    _bpf(_OBJ_PIN, ctypes.create_string_buffer(struct.pack("=QII", _address(name), fd, 0), 16), f"can't pin {path}")


def link_create(program: int, target: int, place: int) -> int:
    """Attach a program (5.7): the descriptor of the link. `target` is a cgroup's folder, `place` an enum bpf_attach_type."""
    packed = struct.pack("=IIII", program, target, place, 0)
    return _bpf(_LINK_CREATE, ctypes.create_string_buffer(packed, 48), "can't attach a program to the cgroup")


def link_update(link: int, program: int) -> None:
    """Another program in the same place, at once."""
    packed = struct.pack("=IIII", link, program, 0, 0)
    _bpf(_LINK_UPDATE, ctypes.create_string_buffer(packed, 48), "can't replace a program of the cgroup")


def link_info(link: int) -> dict[str, int]:
    """Of a cgroup's link. `cgroup` is its folder's inode; 0: the folder is gone, and the link with it."""
    info = ctypes.create_string_buffer(256)
    packed = struct.pack("=IIQ", link, len(info), _address(info))
    _bpf(_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(packed, len(packed)), "link info")
    kind, number, program, _, cgroup, place = struct.unpack_from("=IIIIQI", info.raw, 0)
    return {"type": kind, "id": number, "program": program, "cgroup": cgroup, "attach": place}
