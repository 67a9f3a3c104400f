"""The reader of a BPF ring buffer: records out, in order, each once. One reader at a time.

Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's, then the data, mapped twice in a
row so that a record never wraps. A record is a header of 8 bytes (length with two flag bits, page offset) and its bytes.
"""

import mmap
import struct
from collections.abc import Iterator

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_PAGE = mmap.PAGESIZE


class Ring:
    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        self._consumer = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()

    def read(self, limit: int = 4096) -> Iterator[bytes]:
        """What is there now, at most `limit` records."""
        position = struct.unpack_from("=Q", self._consumer, 0)[0]
        end = struct.unpack_from("=Q", self._producer, 0)[0]
        for _ in range(limit):
            if position >= end:
                return
            start = _PAGE + position % self._size
            header = struct.unpack_from("=I", self._producer, start)[0]
            if header & _BUSY:  # reserved, not written yet: what follows waits for it
                return
            length = header & ~(_BUSY | _DISCARDED)
            record = self._producer[start + 8 : start + 8 + length]
            position += (length + 8 + 7) // 8 * 8
            struct.pack_into("=Q", self._consumer, 0, position)
            if not header & _DISCARDED:
                yield record
