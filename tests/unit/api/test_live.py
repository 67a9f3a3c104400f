"""Settings that follow their file."""

from pathlib import Path

import pytest

from pilus_api.live import LiveSettings
from pilus_api.settings import KEYS, LIVE, OPERATOR, Settings, load


class Mounted:
    """A ConfigMap as a kubelet mounts it: a file a key behind one link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = 0

    def write(self, **data: str) -> None:
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir(parents=True)
        for path in self.folder.iterdir():
            if path.is_symlink() and path.name != "..data":
                path.unlink()
        for key, value in data.items():
            name = key.replace("_", "-")
            (version / name).write_text(value)
            (self.folder / name).symlink_to(Path("..data", name))
        scratch = self.folder / "..new"
        scratch.symlink_to(version.name)
        scratch.replace(self.folder / "..data")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    made = Mounted(tmp_path / "config")
    made.write(cluster_name="one", mtu="0\n")
    return made


def test_a_folder_of_files_is_a_map_of_keys(mounted: Mounted) -> None:
    assert load(mounted.folder) == Settings(cluster_name="one")


async def test_what_may_change_does_and_what_may_not_is_named(mounted: Mounted) -> None:
    taken: list[Settings] = []
    live = LiveSettings(mounted.folder, load(mounted.folder), taken.append)
    await live.look()
    assert (taken, live.waiting) == ([], ())
    mounted.write(cluster_name="one", bpf_ct_timeout_regular_tcp="1h", mtu="1400", routing_mode="native")
    await live.look()
    assert [settings.bpf_ct_timeout_regular_tcp for settings in taken] == [3600.0]
    assert (live.settings.mtu, live.settings.routing_mode) == (0, "tunnel"), "not half of what needs a restart"
    assert live.waiting == ("mtu", "routing-mode")
    await live.look()
    assert len(taken) == 1, "nothing has changed since"
    mounted.write(cluster_name="one")
    await live.look()
    assert taken[-1].bpf_ct_timeout_regular_tcp == 8000.0
    assert not live.waiting


async def test_a_broken_file_changes_nothing_and_is_told_until_it_is_mended(mounted: Mounted) -> None:
    taken: list[Settings] = []
    live = LiveSettings(mounted.folder, load(mounted.folder), taken.append)
    mounted.write(cluster_name="one", debug="true", mtuu="1400")
    await live.look()
    assert taken == []
    assert live.problem == "mtuu: there is no such setting; the nearest is 'mtu'"
    mounted.write(cluster_name="one", flow_quota_per_endpoint="100")
    await live.look()
    assert (live.problem, len(taken)) == ("", 1)


async def test_a_key_that_a_process_does_not_read_is_nothing_to_it(mounted: Mounted) -> None:
    taken: list[Settings] = []
    live = LiveSettings(mounted.folder, load(mounted.folder), taken.append, frozenset(KEYS) - OPERATOR)
    mounted.write(cluster_name="one", identity_gc_interval="1m", cluster_pool_ipv4_mask_size="25")
    await live.look()
    assert (taken, live.waiting) == ([], ())


def test_the_lists_name_keys_that_there_are() -> None:
    assert set(KEYS) >= LIVE
    assert set(KEYS) >= OPERATOR


async def test_a_file_that_is_away_for_a_moment_is_no_trouble_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("debug: false\n")
    live = LiveSettings(path, load(path), lambda _: None)
    await live.look()
    path.rename(tmp_path / "away")
    await live.look()
    assert "can't be read" in live.problem
    (tmp_path / "away").rename(path)
    await live.look()
    assert live.problem == ""
