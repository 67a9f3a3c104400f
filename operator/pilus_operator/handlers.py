"""kopf's handlers: what nodes say of themselves, as it stands and as it changes.

In: PilusNodeStatus, which agents alone write. Out: calls of a receiver. They are event handlers only: kopf writes nothing into the
objects, no annotation and no finalizer. What tenants may write is followed by pilus_api.watch (docs/decisions/002).
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import kopf
import structlog

from pilus_api.connection import SERVICE_ACCOUNT, Object
from pilus_api.errors import PilusError
from pilus_api.resources.pilusnodestatus import PILUS_NODE_STATUS
from pilus_api.watch import Backoff

NODE_STATUSES: Final = (PILUS_NODE_STATUS.group, PILUS_NODE_STATUS.version, PILUS_NODE_STATUS.plural)
NODE_STATUSES_PATH: Final = "/apis/" + "/".join(NODE_STATUSES)

# The object's name, and the object; None: it is gone.
Receiver = Callable[[str, Object | None], None]

_log = structlog.get_logger(__name__)


def registry(receive: Receiver, kubeconfig: Path | None, server: str = "") -> kopf.OperatorRegistry:
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is None:
            # kopf's own way asks DNS for the API server: on the host's network, before there are Services, nobody answers.
            token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
            return kopf.ConnectionInfo(server=server, ca_path=str(authority), token=token.read_text().strip())
        # kopf reads the path from here and nowhere else.
        os.environ["KUBECONFIG"] = str(kubeconfig)
        return kopf.login_with_kubeconfig(settings=settings)

    @kopf.on.event(*NODE_STATUSES, registry=made)
    async def changed(event: Mapping[str, Any], **_: Any) -> None:
        raw = dict(event["object"])
        receive(str(raw["metadata"]["name"]), None if event["type"] == "DELETED" else raw)

    return made


class KopfEndedError(PilusError):
    """kopf stopped by itself; its log says why."""


async def serve(receive: Receiver, kubeconfig: Path | None, server: str = "") -> None:
    """Run kopf until cancelled. Raises KopfEndedError if it ends by itself.

    In a thread and a loop of its own: in ours it would take over the signals, and when it ends it cancels every task of its loop.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[None] = loop.create_future()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False

    def deliver(name: str, raw: Object | None) -> None:
        if not stop.is_set():
            receive(name, raw)

    def across(name: str, raw: Object | None) -> None:
        loop.call_soon_threadsafe(deliver, name, raw)

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_exception(KopfEndedError(f"kopf has ended: {error or 'without an error'}"))

    def work() -> None:
        error = None
        try:
            kopf.run(
                registry=registry(across, kubeconfig, server), settings=settings, standalone=True, clusterwide=True, stop_flag=stop
            )
        except Exception as raised:  # noqa: BLE001  # the guard of an eternal task; told on
            error = raised
        if not stop.is_set():
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=work, name="kopf", daemon=True).start()
    try:
        await ended
    finally:
        stop.set()


async def serve_always(receive: Receiver, kubeconfig: Path | None, server: str = "") -> None:
    """The same, and again whenever it ends: it then tells of every object anew."""
    backoff = Backoff(1.0, 30.0)
    while True:
        try:
            await serve(receive, kubeconfig, server)
        except KopfEndedError as error:
            _log.warning("what nodes say is not followed, trying again", error=str(error))
            await asyncio.sleep(backoff.delay())
