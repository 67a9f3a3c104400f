"""`pilus install --early`: files on a node, and a unit that systemd understands."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pilus_agent.datapath.removal import UNIT_FILES
from pilus_cli import install
from pilus_cli.install import TREE, UNIT, WANTED, unit
from pilus_cli.main import cli


@pytest.mark.parametrize("in_tree", [False, True])
def test_the_unit_is_one_that_systemd_understands(tmp_path: Path, in_tree: bool) -> None:
    """Its program is in place of ours, which a tree has elsewhere: what is verified is that it can be run."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    held = tmp_path / "pilus-early.service"
    held.write_text(unit(Path("/bin/true"), in_tree=in_tree))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(held)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_started_before_the_network() -> None:
    text = unit(Path("/usr/bin/pilus-early"), in_tree=False)
    assert "Before=network-pre.target\n" in text
    assert "DefaultDependencies=no\n" in text
    assert "ExecStart=/usr/bin/pilus-early --wait 60\n" in text


def test_what_is_written_is_what_uninstall_takes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice gives the same; the link is what `systemctl enable` makes."""
    (tmp_path / "image").mkdir()
    monkeypatch.setattr(install, "_copy_image", lambda target: target.mkdir(parents=True, exist_ok=True))
    for _ in range(2):
        done = CliRunner().invoke(cli, ["install", "--early", "--root", str(tmp_path)])
        assert done.exit_code == 0, done.output
    assert (tmp_path / WANTED).readlink() == Path("/") / UNIT
    assert "RootDirectory=/var/lib/pilus/early\n" in (tmp_path / UNIT).read_text()
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "etc").rglob("*") if not path.is_dir()}
    assert written == set(UNIT_FILES) == {UNIT, WANTED}
    assert (tmp_path / TREE).is_dir()


def test_without_what_to_install_it_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["install"]).exit_code == 2
