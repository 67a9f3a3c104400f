"""The command line of the process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pilus_api.errors import PilusError
from pilus_observer.main import arguments, main
from pilus_observer.observer import alone


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_where_everything_is() -> None:
    held = arguments(["--node-name", "n", "--config", "c"])
    assert (str(held.description), str(held.socket)) == ("/run/pilus/datapath.json", "/run/pilus/observer.sock")
    assert (str(held.agent), str(held.rules), held.metrics) == ("/run/pilus/agent.sock", "/run/pilus/rules.json", None)


@pytest.mark.parametrize(
    ("config", "metrics", "said"),
    [
        (None, "", "can't be read"),
        ("no-such-key: 1\n", "", "no such setting"),
        ("debug: true\n", "nonsense", "no address to listen at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | None, metrics: str, said: str
) -> None:
    path = tmp_path / "config.yaml"
    if config is not None:
        path.write_text(config)
    given = ["--node-name", "n", "--config", str(path), "--socket", str(tmp_path / "s"), "--metrics", metrics]
    assert main(given) == 1
    assert said in capsys.readouterr().err


def test_one_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "s"), pytest.raises(PilusError, match="another observer"), alone(tmp_path / "s"):
        pass
    with alone(tmp_path / "s"):
        pass
