"""kopf's handlers: policies, as they are and as they change.

In: CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy. Out: calls of the policy writer. They are event handlers only: kopf
writes nothing into the objects, no annotation and no finalizer; the status is the policy writer's.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import kopf
import structlog

from pilus_api.connection import Object
from pilus_api.errors import PilusError
from pilus_api.watch import Backoff

KINDS: Final = ("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies")

# What a policy's plural, its object and whether it is gone mean is the receiver's business.
Receiver = Callable[[str, Object, bool], None]


_log = structlog.get_logger(__name__)


def registry(receive: Receiver, kubeconfig: Path | None) -> kopf.OperatorRegistry:
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is None:
            return kopf.login_with_service_account(settings=settings)
        # kopf reads the path from here and nowhere else.
        os.environ["KUBECONFIG"] = str(kubeconfig)
        return kopf.login_with_kubeconfig(settings=settings)

    for plural in KINDS:

        @kopf.on.event("cilium.io", "v2", plural, registry=made)
        async def changed(event: Mapping[str, Any], plural: str = plural, **_: Any) -> None:
            receive(plural, dict(event["object"]), event["type"] == "DELETED")

    return made


class KopfEndedError(PilusError):
    """kopf stopped by itself; its log says why."""


async def serve(receive: Receiver, kubeconfig: Path | None) -> None:
    """Run kopf until cancelled. Raises KopfEndedError if it ends by itself.

    In a thread and a loop of its own: in ours it would take over the signals, and when it ends it cancels every task of its loop.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[None] = loop.create_future()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False

    def deliver(plural: str, raw: Object, gone: bool) -> None:
        if not stop.is_set():
            receive(plural, raw, gone)

    def across(plural: str, raw: Object, gone: bool) -> None:
        loop.call_soon_threadsafe(deliver, plural, raw, gone)

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_exception(KopfEndedError(f"kopf has ended: {error or 'without an error'}"))

    def work() -> None:
        error = None
        try:
            kopf.run(registry=registry(across, kubeconfig), settings=settings, standalone=True, clusterwide=True, stop_flag=stop)
        except Exception as raised:  # noqa: BLE001  # the guard of an eternal task; told on
            error = raised
        if not stop.is_set():
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=work, name="kopf", daemon=True).start()
    try:
        await ended
    finally:
        stop.set()


async def serve_always(receive: Receiver, kubeconfig: Path | None) -> None:
    """The same, and again whenever it ends: it then tells of every policy anew."""
    backoff = Backoff(1.0, 30.0)
    while True:
        try:
            await serve(receive, kubeconfig)
        except KopfEndedError as error:
            _log.warning("policies are not followed, trying again", error=str(error))
            await asyncio.sleep(backoff.delay())
