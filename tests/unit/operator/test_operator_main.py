"""The command line: what is wrong is said in one line; kopf's end is noticed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kopf
import pytest
from click.testing import CliRunner

from pilus_api.connection import Object
from pilus_operator import handlers
from pilus_operator.main import main


@pytest.mark.parametrize(
    ("settings", "kubeconfig", "said"),
    [
        ("enable-ipv7: 'true'", None, "the nearest is 'enable-ipv"),
        ("label-prefix-file: /nowhere/labels.json", "absent", "label-prefix-file: /nowhere/labels.json: "),
        ("labels: 'k8s:('", "absent", "labels: '(' is not a regular expression"),
        ("", "absent", "the kubeconfig can't be used"),
        ("", None, "name a kubeconfig"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, kubeconfig: str | None, said: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    config = tmp_path / "settings.yaml"
    config.write_text(settings)
    arguments = ["--config", str(config)] + (["--kubeconfig", str(tmp_path / kubeconfig)] if kubeconfig else [])
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output


def ignore(name: str, raw: Object | None) -> None:
    pass


async def test_kopf_s_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**_: Any) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(kopf, "run", run)
    with pytest.raises(handlers.KopfEndedError, match="no credentials"):
        await handlers.serve(ignore, None)


async def test_kopf_is_told_to_stop_and_what_it_says_afterwards_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    tellers: list[Callable[[str, Object | None], None]] = []
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def registry(receive: handlers.Receiver, kubeconfig: Path | None, server: str) -> None:
        tellers.append(receive)

    def run(*, stop_flag: Any, **_: Any) -> None:
        tellers[0]("n1", {})
        stop_flag.wait()
        tellers[0]("late", {})
        loop.call_soon_threadsafe(stopped.set)

    monkeypatch.setattr(handlers, "registry", registry)
    monkeypatch.setattr(kopf, "run", run)

    def hear(name: str, raw: Object | None) -> None:
        heard.append(name)

    task = asyncio.create_task(handlers.serve(hear, None))
    async with asyncio.timeout(5):
        while not heard:  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)
        task.cancel()
        await stopped.wait()
    assert heard == ["n1"]
