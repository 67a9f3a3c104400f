"""Which folder holds every process of the node, from what the kernel says about mounts."""

from pathlib import Path

import pytest

from pilus_agent.datapath.cgroup import CgroupError, choose


def mount(root: str, place: str, kind: str = "cgroup2") -> str:
    return f"36 25 0:31 {root} {place} rw,relatime shared:9 - {kind} {kind} rw"


HYBRID = [mount("/", "/sys/fs/cgroup/memory", "cgroup"), mount("/", "/sys/fs/cgroup/unified"), mount("/", "/", "ext4")]


@pytest.mark.parametrize(
    ("mounts", "first", "folder"),
    [
        pytest.param([mount("/", "/sys/fs/cgroup")], "0::/init.scope\n", "/sys/fs/cgroup", id="a machine"),
        pytest.param(HYBRID, "9:name=systemd:/\n0::/\n", "/sys/fs/cgroup/unified", id="beside cgroup v1"),
        pytest.param(
            [mount("/", "/sys/fs/cgroup"), mount("/../../..", "/host/sys/fs/cgroup")],
            "0::/../../../init.scope\n",
            "/host/sys/fs/cgroup",
            id="a container with the host's folder mounted",
        ),
        pytest.param(
            [mount("/", "/sys/fs/cgroup"), mount("/kubepods/pod1", "/elsewhere")], "0::/\n", "/sys/fs/cgroup", id="a narrower one"
        ),
        pytest.param([mount("/", r"/mnt/c\040group")], "0::/\n", "/mnt/c group", id="a space in its name"),
    ],
)
def test_the_widest_is_chosen(mounts: list[str], first: str, folder: str) -> None:
    assert choose("\n".join(mounts), first) == Path(folder)


@pytest.mark.parametrize(
    ("mounts", "first", "said"),
    [
        pytest.param([], "0::/\n", "no cgroup2 is mounted", id="none"),
        pytest.param([mount("/", "/sys/fs/cgroup/memory", "cgroup")], "0::/\n", "no cgroup2 is mounted", id="cgroup v1 alone"),
        pytest.param([mount("/kubepods/pod1", "/sys/fs/cgroup")], "0::/\n", "no cgroup2 is mounted", id="a part of it alone"),
        pytest.param(
            [mount("/", "/sys/fs/cgroup")], "0::/../../init.scope\n", "the agent's own container's", id="a namespace of its own"
        ),
        pytest.param([mount("/", "/sys/fs/cgroup")], "4:memory:/\n", "process 1 is in no cgroup2", id="process 1 nowhere"),
        pytest.param(["nonsense", " - cgroup2", ""], "0::/\n", "no cgroup2 is mounted", id="nonsense"),
    ],
)
def test_without_the_node_s_folder_nothing_is_attached(mounts: list[str], first: str, said: str) -> None:
    with pytest.raises(CgroupError, match=said):
        choose("\n".join(mounts), first)
