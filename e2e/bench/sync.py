"""Runs in a process of its own: the operator's way of hearing of every pod, until all are known.

`python -m bench.sync URL`: the lister-watcher, the operator's pruning, and its allocator of identities, which is told of each
pod as in the operator. Prints seconds and resident kB as JSON.
"""

import asyncio
import json
import re
import sys
import time
from pathlib import Path

from bench.fake_api import NAMESPACES
from pilus_api.connection import Access, Connection
from pilus_api.settings import Settings
from pilus_api.watch import InSync, Upsert, watch
from pilus_operator import facts
from pilus_operator.identity_writer import IdentityWriter
from pilus_operator.metrics import Metrics
from pilus_operator.range_writer import RangeWriter
from pilus_operator.slice_writer import SliceWriter
from pilus_operator.wiring import PODS


def kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(found[1]) if found else 0


async def hear(url: str) -> dict[str, float]:
    settings, metrics = Settings(), Metrics()
    async with Connection(Access(url)) as connection:
        identities = IdentityWriter(connection, settings, metrics, 0)
        slices = SliceWriter(connection, identities, RangeWriter(connection, settings, metrics).ranges, metrics)
        for number in range(NAMESPACES):
            name = f"team-{number}"
            identities.namespace(name, (("kubernetes.io/metadata.name", name),))
        before, began, pods = kilobytes("VmRSS"), time.monotonic(), 0
        async for event in watch(connection, PODS, prune=facts.pod):
            if isinstance(event, Upsert):
                pods += 1
                slices.changed(identities.pod(event.key, event.object))
            elif isinstance(event, InSync):
                break
        return {"pods": pods, "seconds": time.monotonic() - began, "before": before, "resident": kilobytes("VmRSS"),
                "most": kilobytes("VmHWM")}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(hear(sys.argv[1]))))
