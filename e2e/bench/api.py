"""The API server of a lab, spoken to from outside its namespaces.

In: a cluster. Out: a connection on a loop of its own, in a thread that has entered the control plane's network namespace and
keeps to the other CPUs. kubectl would take 100 ms to start.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bench.clusters import Cluster
from bench.traffic import other_cpus
from pilus_api.connection import Connection
from pilus_lab.probe import within

T = TypeVar("T")


class Api:
    """Use it in a `with`. `call` blocks; `start` leaves something running until its future is cancelled."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._connection: Connection | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    def _run(self) -> None:
        process = self._cluster.lab.control.orders.first_process()
        namespace = os.open(Path("/proc") / str(process) / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            within(namespace, lambda: asyncio.run(self._serve()))
        finally:
            os.close(namespace)
            self._ready.set()

    async def _serve(self) -> None:
        os.sched_setaffinity(0, other_cpus())  # of this thread alone
        async with Connection.from_kubeconfig(self._cluster.lab.spec.kubeconfigs / "admin") as self._connection:
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> "Api":
        self._thread.start()
        self._ready.wait()
        if self._loop is None:
            raise RuntimeError("no connection to the API server")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def start(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> "Future[T]":
        if self._loop is None or self._connection is None:
            raise RuntimeError("not inside `with`")
        return asyncio.run_coroutine_threadsafe(work(self._connection), self._loop)

    def call(self, work: Callable[[Connection], Coroutine[Any, Any, T]], limit: float = 30.0) -> T:
        """Do it, and wait for what it returns."""
        return self.start(work).result(limit)
