import json
import os
from pathlib import Path

import pytest

from pilus_agent.cni_install import InstallError, install, remove_conf


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.write_bytes(b"#!/usr/bin/python3 -IS\n")
    return made


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_installs_into_folders_that_are_not_there(tmp_path: Path, plugin: Path) -> None:
    before = os.umask(0o077)
    try:
        assert install(plugin, tmp_path / "bin", tmp_path / "etc/net.d") == ()
    finally:
        os.umask(before)
    assert names(tmp_path / "bin") == ["pilus-cni"]
    assert names(tmp_path / "etc/net.d") == ["05-pilus.conflist"]
    assert (tmp_path / "bin/pilus-cni").read_bytes() == plugin.read_bytes()
    assert (tmp_path / "bin/pilus-cni").stat().st_mode & 0o7777 == 0o755
    configuration = tmp_path / "etc/net.d/05-pilus.conflist"
    assert configuration.stat().st_mode & 0o7777 == 0o644
    assert json.loads(configuration.read_bytes()) == {"cniVersion": "1.1.0", "name": "pilus", "plugins": [{"type": "pilus-cni"}]}


def test_writes_only_what_differs(tmp_path: Path, plugin: Path) -> None:
    files = [tmp_path / "pilus-cni", tmp_path / "05-pilus.conflist"]
    install(plugin, tmp_path, tmp_path)
    made = [file.stat().st_ino for file in files]
    install(plugin, tmp_path, tmp_path)
    assert [file.stat().st_ino for file in files] == made  # a runtime reloads at every change
    files[0].chmod(0o700)
    files[1].write_text("{}")
    install(plugin, tmp_path, tmp_path)
    assert files[0].stat().st_mode & 0o7777 == 0o755
    assert json.loads(files[1].read_bytes())["name"] == "pilus"


def test_replaces_links_and_leftovers_without_following_them(tmp_path: Path, plugin: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "pilus-cni").symlink_to(victim)
    (bin_dir / ".pilus-cni.draft").symlink_to(victim)
    install(plugin, bin_dir, tmp_path / "net.d")
    assert victim.read_bytes() == b"mine"
    assert names(bin_dir) == ["pilus-cni"]
    assert not (bin_dir / "pilus-cni").is_symlink()


def test_no_configuration_without_the_plugin(tmp_path: Path, plugin: Path) -> None:
    (tmp_path / "bin/pilus-cni/in-the-way").mkdir(parents=True)
    with pytest.raises(InstallError, match="writable"):
        install(plugin, tmp_path / "bin", tmp_path / "net.d")
    assert not (tmp_path / "net.d").exists()
    assert names(tmp_path / "bin") == ["pilus-cni"]  # no draft stays
    with pytest.raises(InstallError):
        install(tmp_path / "absent", tmp_path / "other", tmp_path / "net.d")


def test_says_which_others_come_first(tmp_path: Path, plugin: Path) -> None:
    for name in ("00-first.conf", "01-note.txt", "05-a.json", "10-later.conflist"):
        (tmp_path / name).touch()
    assert install(plugin, tmp_path / "bin", tmp_path) == ("00-first.conf", "05-a.json")


def test_remove(tmp_path: Path, plugin: Path) -> None:
    install(plugin, tmp_path / "bin", tmp_path / "net.d")
    remove_conf(tmp_path / "net.d")
    remove_conf(tmp_path / "net.d")
    assert names(tmp_path / "net.d") == []
    assert names(tmp_path / "bin") == ["pilus-cni"]
    with pytest.raises(InstallError):
        remove_conf(plugin)
