"""What a group of figures is given, and what it gives.

In: how long the whole may take. Out: a folder to work in, words on the terminal, and figures one by one: those that were found
before a group failed are kept.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.figure import Figure


@dataclass(frozen=True, slots=True)
class Bench:
    """`quick`: fewer rounds, the same figures."""

    quick: bool
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def rounds(self, full: int, quick: int = 2) -> int:
        return quick if self.quick else full

    def say(self, text: str) -> None:
        print(f"    {time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)


Group = Callable[[Bench], Iterator[Figure]]
