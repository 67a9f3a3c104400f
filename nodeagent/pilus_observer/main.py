"""pilus-observer: the process. Reads what it is told on the command line and in the settings, and runs until SIGTERM."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from pilus_api import settings
from pilus_api.errors import PilusError
from pilus_api.live import LiveSettings
from pilus_maps.datapath import DESCRIPTION
from pilus_observer import agent
from pilus_observer.observer import Observer, Places, alone
from pilus_observer.rules import RULES
from pilus_observer.server import SOCKET

_log = structlog.get_logger(__name__)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("pilus-observer", description="Tells what happens to packets on this node.")
    parser.add_argument("--node-name", required=True, help="this node's name, for the log")
    parser.add_argument("--config", type=Path, required=True, help="the settings: YAML, or a folder of files")
    parser.add_argument(
        "--description", type=Path, default=DESCRIPTION, help="what the agent's loader wrote (default: %(default)s)"
    )
    parser.add_argument("--socket", type=Path, default=SOCKET, help="where to answer (default: %(default)s)")
    parser.add_argument("--agent", type=Path, default=agent.AGENT, help="where the agent answers (default: %(default)s)")
    parser.add_argument("--rules", type=Path, default=RULES, help="the rules' names (default: %(default)s)")
    parser.add_argument(
        "--metrics", metavar="ADDRESS", help='where to serve metrics, "" for nowhere (default: as the settings say)'
    )
    return parser.parse_args(given)


def configure_log(node: str, debug: bool) -> None:
    """JSON lines on standard error, one for each thing that has changed."""

    def named(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["node"] = node
        return line

    structlog.configure(
        processors=[
            named,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _run(observer: Observer, live: LiveSettings) -> None:
    stop = asyncio.Event()
    following = asyncio.create_task(live.run(), name="settings")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await observer.run(stop)
    finally:
        following.cancel()


def main(given: Sequence[str] | None = None) -> int:
    wanted = arguments(given)
    try:
        held = settings.load(wanted.config)
        configure_log(wanted.node_name, held.debug)
        metrics = held.hubble_metrics_server if wanted.metrics is None else wanted.metrics
        observer = Observer(Places(wanted.description, wanted.socket, wanted.agent, wanted.rules, metrics))
        with alone(wanted.socket):
            _log.info("observing")
            reads = frozenset({"debug", "hubble-metrics-server"})
            asyncio.run(_run(observer, LiveSettings(wanted.config, held, lambda _: None, reads)))
            _log.info("stopped")
    except PilusError as error:
        print(f"pilus-observer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
