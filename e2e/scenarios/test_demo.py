"""The demo shows what it promises, on real pods, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from pilus_lab.spec import states

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NAME = "demotest"


def run(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pilus_lab.demo", what, NAME], capture_output=True, text=True, check=False)


def test_the_demo_shows_who_may_talk_to_whom_and_why() -> None:
    try:
        done = run("up")
        print(done.stdout, done.stderr)
        assert done.returncode == 0, "a connection did not do what the policy says"
        shown = done.stdout
        for promised in (
            "same node",
            "other node",
            "Service web",
            "connected",
            "denied",
            "Policy denied",
            "FORWARDED",
            "default/stranger",
        ):
            assert promised in shown, f"the demo does not show {promised!r}"
    finally:
        down = run("down")
    assert down.returncode == 0
    assert not (states() / NAME).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/pilus-lab-{NAME}"))
    mounts = Path("/proc/self/mountinfo").read_text()
    assert f"/labs/{NAME}/" not in mounts
