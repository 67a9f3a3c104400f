"""The first process of a place: starts, signals, buries."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilus_lab.lab import wait_for
from pilus_lab.supervisor import Orders

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Orders]:
    path = tmp_path / "s.sock"
    code = "import sys, pathlib; from pilus_lab.supervisor import Supervisor; Supervisor(pathlib.Path(sys.argv[1])).serve()"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        wait_for("supervisor serves", path.exists, 10)
        yield Orders(path)
    finally:
        process.kill()
        process.wait(10)


def test_what_is_started_runs_with_its_log_and_its_end_is_known(orders: Orders, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "one.log"
    orders(do="start", name="one", argv=["sh", "-c", "echo said; exit 3"], env=ENV, log=str(log))
    assert orders(do="wait", name="one", seconds=10) == {"status": 3}
    assert log.read_text() == "said\n"


def test_a_signal_ends_a_component_which_can_be_started_again(orders: Orders, tmp_path: Path) -> None:
    start = {"do": "start", "name": "one", "argv": ["sleep", "600"], "env": ENV, "log": str(tmp_path / "log")}
    orders(**start)
    with pytest.raises(RuntimeError, match="one is running"):
        orders(**start)
    orders(do="signal", name="one", signal=int(signal.SIGKILL))
    assert orders(do="wait", name="one", seconds=10) == {"status": -signal.SIGKILL}
    orders(**start)
    assert orders(do="list")["components"]["one"]["status"] is None
    orders(do="signal", name="one", signal=int(signal.SIGKILL))
    assert orders(do="wait", name="one", seconds=10)["status"] is not None


@pytest.mark.parametrize("order", [{"do": "dance"}, {"do": "signal", "name": "nobody", "signal": 9}, {}])
def test_an_order_that_makes_no_sense_is_refused_and_the_next_is_carried_out(orders: Orders, order: dict[str, object]) -> None:
    with pytest.raises(RuntimeError):
        orders(**order)
    assert orders(do="list") == {"components": {}}


def test_a_program_that_is_not_there_is_an_error_with_its_name(orders: Orders, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-program"):
        orders(do="start", name="x", argv=["no-such-program"], env=ENV, log=str(tmp_path / "log"))


def test_without_a_supervisor_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"gone\.sock"):
        Orders(tmp_path / "gone.sock")(do="list")
