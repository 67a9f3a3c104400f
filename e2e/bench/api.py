"""The API server of a lab, spoken to from outside its namespaces.

In: a cluster. Out: a connection on a loop of its own, in a thread that has entered the control plane's network namespace and
keeps to the other CPUs (kubectl would take 100 ms to start); and one that only sends what is ready, where each millisecond of a
client library would be counted as Pilus'.
"""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPSConnection
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bench.clusters import Cluster
from bench.traffic import other_cpus
from pilus_api.connection import Connection, read_kubeconfig
from pilus_lab.probe import within_process

T = TypeVar("T")


def _within(cluster: Cluster, work: Callable[[], T]) -> T:
    """In the control plane's network namespace, in a thread of its own."""
    return within_process(cluster.lab.control.orders.first_process(), work)


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
        try:
            _within(self._cluster, lambda: asyncio.run(self._serve()))
        finally:
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


class Wire:
    """Requests that are ready before they are sent, one after the other. Raises RuntimeError for one that is refused."""

    def __init__(self, cluster: Cluster) -> None:
        access = read_kubeconfig(cluster.lab.spec.kubeconfigs / "admin")
        server = urlsplit(access.server)
        self._connection = HTTPSConnection(server.hostname or "", server.port or 443, context=access.tls, timeout=30)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {access.token}"} if access.token else {})

    def send(self, method: str, path: str, body: bytes | None = None) -> None:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {said.decode(errors='replace')}")

    @staticmethod
    def use(cluster: Cluster, work: "Callable[[Wire], T]") -> T:
        """Do something with one."""

        def run() -> T:
            made = Wire(cluster)
            try:
                return work(made)
            finally:
                made._connection.close()

        return _within(cluster, run)

    @contextmanager
    def heard(self, cluster: Cluster, path: str) -> "Iterator[list[tuple[int, str]]]":
        """When (time.monotonic_ns) a watcher of a collection that does nothing else heard of what (ADDED, MODIFIED, DELETED)."""
        found: list[tuple[int, str]] = []
        other = Wire(cluster)._connection
        other.timeout = None
        other.request("GET", f"{path}?watch=1&resourceVersion=0", headers=self._headers)
        answer = other.getresponse()

        def listen() -> None:
            with suppress(OSError, HTTPException, ValueError):
                while line := answer.readline():
                    at = time.monotonic_ns()
                    found.append((at, json.loads(line)["type"]))

        thread = threading.Thread(target=listen, name="watcher", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            if other.sock is not None:
                other.sock.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            other.close()
