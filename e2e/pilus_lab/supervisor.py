"""The first process of a place (a lab's control plane, or one node): it starts and ends components when told to.

In: one JSON order a connection, on a unix socket. Out: one JSON answer. As process 1 of its pid namespace it also buries
whatever orphans its components leave. Never decides what runs.

| order | answer |
|---|---|
| ``{"do": "start", "name", "argv", "env", "log"}`` | ``{"pid"}``, numbered in the place's own namespace |
| ``{"do": "signal", "name", "signal"}`` | ``{}`` |
| ``{"do": "wait", "name", "seconds"}`` | ``{"status"}``, or null when it still runs |
| ``{"do": "list"}`` | ``{"components": {name: {"pid", "status"}}}`` |
"""

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class _Component:
    process: subprocess.Popen[bytes]
    status: int | None = None


class Supervisor:
    """Serves orders until its place is killed."""

    def __init__(self, path: Path) -> None:
        self._components: dict[str, _Component] = {}
        self._listening = socket.socket(socket.AF_UNIX)
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        self._listening.bind(str(scratch))
        scratch.chmod(0o600)
        self._listening.listen(64)
        scratch.rename(path)  # who finds the socket finds it served
        self._listening.setblocking(False)

    def serve(self) -> None:
        """Answer orders and bury the dead, for ever."""
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self._listening, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    self._bury()
                else:
                    self._answer()

    def _bury(self) -> None:
        """Collect every child that ended, ours and those that were left to us."""
        own = {component.process.pid: component for component in self._components.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in own:
                own[pid].status = os.waitstatus_to_exitcode(status)

    def _answer(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            connection.settimeout(5)
            try:
                order = json.loads(connection.makefile("rb").readline())
                answer = self._carry_out(order)
            except (OSError, ValueError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return  # who asked has gone

    def _carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "start":
                return self._start(order["name"], order["argv"], order["env"], Path(order["log"]))
            case "signal":
                component = self._components[order["name"]]
                if component.status is None:
                    os.kill(component.process.pid, order["signal"])
                return {}
            case "wait":
                return {"status": self._wait(self._components[order["name"]], order["seconds"])}
            case "list":
                return {
                    "components": {
                        name: {"pid": component.process.pid, "status": component.status}
                        for name, component in self._components.items()
                    }
                }
        raise KeyError(order["do"])

    def _start(self, name: str, argv: list[str], env: dict[str, str], log: Path) -> dict[str, Any]:
        running = self._components.get(name)
        if running is not None and running.status is None:
            raise ValueError(f"{name} is running")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self._components[name] = _Component(process)
        return {"pid": process.pid}

    def _wait(self, component: _Component, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while component.status is None and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.005)
        return component.status


class Orders:
    """The other end: how the lab speaks to a place. Raises ConnectionError if nobody serves there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise ConnectionError(f"nothing serves {self._path}: {error.strerror}") from error
        return connection

    def first_process(self) -> int:
        """The pid of the place's first process, numbered in the caller's namespace: what nsenter wants."""
        with self._connect() as connection:
            held = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            connection.sendall(b'{"do": "list"}\n')
            pid, _, _ = struct.unpack("3i", held)
            return int(pid)

    def __call__(self, **order: Any) -> dict[str, Any]:
        """Give one order and return the answer. Raises RuntimeError if it was refused."""
        with self._connect() as connection:
            connection.sendall(json.dumps(order).encode() + b"\n")
            answer = json.loads(connection.makefile("rb").readline() or b'{"error": "no answer"}')
        if "error" in answer:
            raise RuntimeError(f"{order.get('do')} {order.get('name', '')}: {answer['error']}")
        return dict(answer)
