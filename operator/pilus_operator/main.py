"""`pilus-operator`: reads its settings, waits for the Lease, works until it loses it or is told to end.

In: a kubeconfig (or a pod's service account), a settings file, SIGTERM. Out: an exit status, 0 if it was told to end.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import click
import structlog

from pilus_api.connection import Connection
from pilus_api.errors import PilusError
from pilus_api.label_filters import IdentityFilter
from pilus_api.label_prefixes import identity_filter
from pilus_api.listener import Listener, health_listener, metrics_listener
from pilus_api.live import LiveSettings, set_debug
from pilus_api.settings import Settings, load
from pilus_operator.leader import Election
from pilus_operator.metrics import Metrics
from pilus_operator.wiring import Term

# The loop answers within milliseconds, or something blocks it.
_BEAT_SECONDS = 1.0
_BEATS_MISSED = 10.0
# Two operators may share a host and its ports: the one that comes too late takes them when they are free.
_LISTEN_RETRY_SECONDS = 2.0

_log = structlog.get_logger("pilus_operator")


def configure_logs(debug: bool) -> None:
    set_debug(debug)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr)
    # It warns that it leaves the signals alone, which is what we want of it.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if not sys.stderr.isatty() else structlog.dev.ConsoleRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class Operator:
    """One process: standing by, or in a term."""

    def __init__(
        self, connection: Connection, settings: Settings, relevant: IdentityFilter, kubeconfig: Path | None, config: Path | None
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._relevant = relevant
        self._live = LiveSettings(config, settings, self._reconfigure) if config else None
        self._working: Term | None = None
        self._kubeconfig = kubeconfig
        self._metrics = Metrics()
        self._beat = time.monotonic()
        # A restarted pod must not take itself for its predecessor, whose writes may still be on their way.
        self._election = Election(connection, f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(3)}")

    async def run(self) -> None:
        """Until cancelled; then the Lease is given back."""
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners():
                group.create_task(listener.run(), name="listener")
            group.create_task(self._keep_beat(), name="heartbeat")
            if self._live is not None:
                group.create_task(self._live.run(), name="settings")
            while True:
                await self._term()

    def _reconfigure(self, settings: Settings) -> None:
        self._settings = settings
        logging.getLogger().setLevel(logging.DEBUG if settings.debug else logging.WARNING)
        if self._working is not None:
            self._working.reconfigure(settings)

    def _listeners(self) -> list[Listener]:
        found = []
        if where := self._settings.operator_prometheus_serve_addr:
            found.append(metrics_listener(where, self._metrics.text, _LISTEN_RETRY_SECONDS))
        if where := self._settings.operator_api_serve_addr:
            found.append(health_listener(where, self._wrong, _LISTEN_RETRY_SECONDS))
        return found

    async def _keep_beat(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def _wrong(self) -> str:
        late = time.monotonic() - self._beat
        return f"the event loop is {late:.0f} s late" if late > _BEATS_MISSED else ""

    async def _term(self) -> None:
        notes = await self._election.acquire()
        _log.info("active", ourselves=self._election.ourselves)
        term = Term(self._connection, self._settings, self._metrics, self._kubeconfig, dict(notes), self._relevant)
        self._working = term
        self._metrics.leading.set(1)
        work = asyncio.create_task(term.run(), name="term")
        hold = asyncio.create_task(self._election.hold(term.notes), name="lease")
        try:
            await asyncio.wait({work, hold}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # First nothing is written any more, then somebody else may.
            self._metrics.leading.set(0)
            for task in (work, hold):
                task.cancel()
            results = await asyncio.gather(work, hold, return_exceptions=True)
            await asyncio.shield(self._election.release(term.notes()))
        for result in results:
            if isinstance(result, Exception):
                raise result


async def serve(
    connection: Connection, settings: Settings, relevant: IdentityFilter, kubeconfig: Path | None, config: Path | None = None
) -> int:
    """Work until told to end; returns the exit status."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with connection:
        work = asyncio.create_task(Operator(connection, settings, relevant, kubeconfig, config).run(), name="operator")
        told = asyncio.create_task(ended.wait(), name="signals")
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        failed = work.done()
        work.cancel()
        told.cancel()
        (result, _) = await asyncio.gather(work, told, return_exceptions=True)
    if failed:
        _log.error("ended by a fault", exc_info=result if isinstance(result, Exception) else None)
    return int(failed)


@click.command()
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="How to reach the API server; in a pod: not needed.")
@click.option("--config", type=click.Path(path_type=Path), help="The ConfigMap's keys: YAML, or a folder of files.")
def main(kubeconfig: Path | None, config: Path | None) -> None:
    """The cluster's part of Pilus: identities, pod ranges, endpoint slices and the conditions of policies."""
    try:
        settings = load(config) if config else Settings()
        relevant = identity_filter(settings)
        configure_logs(settings.debug)
        connection = Connection.from_kubeconfig(kubeconfig) if kubeconfig else Connection.in_cluster(settings.k8s_api_server)
        status = asyncio.run(serve(connection, settings, relevant, kubeconfig, config))
    except PilusError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


if __name__ == "__main__":
    main()
