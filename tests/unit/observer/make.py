"""Events and layouts, made up."""

import asyncio
from collections.abc import Callable
from typing import Any

from pilus_observer.events import End, Event


async def until(condition: Callable[[], object]) -> None:
    """Raises TimeoutError if it does not come true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


def event(
    source: End | None = None, destination: End | None = None, *, reason: int = 0, endpoint: int = 0, rule: int = 0,
    suppressed: int = 0, protocol: int = 6, path: str = "none", time: float = 0.0,
) -> Event:  # fmt: skip
    return Event(
        time=time, hook="pod_from", path=path, reason_number=reason, reason="Policy denied" if reason else None,
        direction="egress", family=4, protocol=protocol, source=source or End("10.0.0.1", 1000, 300),
        destination=destination or End("10.0.0.2", 80, 2), endpoint=endpoint, rule_number=rule, suppressed=suppressed,
    )  # fmt: skip


def fields(*named: tuple[str, int], network: bool = False) -> list[dict[str, Any]]:
    """(name, size), one after the other."""
    found: list[dict[str, Any]] = []
    offset = 0
    for name, size in named:
        found.append({"name": name, "offset": offset, "size": size, "count": 0, "network": network, "fields": None})
        offset += size
    return found


def layout(*named: tuple[str, int]) -> dict[str, Any]:
    return {"size": sum(size for _, size in named), "fields": fields(*named)}
