"""Questions: who reaches whom, at each port, by each protocol and in each family."""

import itertools
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

PORTS: Final = (80, 81)
PROTOCOLS: Final = ("TCP", "UDP", "SCTP")
FAMILIES: Final = (4, 6)
SPACES: Final = ("x", "y", "z")
NODE: Final = "n"  # where nodes "live": n/1 and n/2
OUTSIDE: Final = "w"  # where those do who are neither: w/a and w/b


class Ask(NamedTuple):
    """By whom, to whom: `namespace/name`. The protocol in capitals."""

    by: str
    to: str
    port: int
    protocol: str
    family: int

    @property
    def by_ns(self) -> str:
        return self.by[: self.by.index("/")]

    @property
    def to_ns(self) -> str:
        return self.to[: self.to.index("/")]

    @property
    def by_is_pod(self) -> bool:
        return self.by_ns in SPACES

    @property
    def to_is_pod(self) -> bool:
        return self.to_ns in SPACES

    @property
    def by_pod(self) -> str:
        return self.by[self.by.index("/") + 1 :]

    @property
    def to_pod(self) -> str:
        return self.to[self.to.index("/") + 1 :]

    def __str__(self) -> str:
        return f"{self.by}>{self.to}:{self.port}/{self.protocol}/IPv{self.family}"


def questions(sources: Collection[str], targets: Collection[str]) -> Iterator[Ask]:
    """From pods and nodes to all others; SCTP to pods alone, for others it does not leave (Pilus does not masquerade it)."""
    for by, to, protocol, port, family in itertools.product(sources, targets, PROTOCOLS, PORTS, FAMILIES):
        ask = Ask(by, to, port, protocol, family)
        if by != to and (ask.to_is_pod or (ask.by_is_pod and protocol != "SCTP")):
            yield ask


def told(asks: Collection[Ask]) -> str:
    """The first of them, and how many there are."""
    shown = ", ".join(str(ask) for ask in sorted(asks)[:8])
    return f"{len(asks)}: {shown}{', ...' if len(asks) > 8 else ''}" if asks else "none"
