"""What makes a node's own policy hold from its boot on: a systemd unit that runs before the network, and what that runs.

In: a command line. Out: files on the node, named; `pilus uninstall` takes them away. Everything else of Pilus is installed by
`kubectl apply -k manifests/`.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe

UNIT: Final = "etc/systemd/system/pilus-early.service"
WANTED: Final = "etc/systemd/system/multi-user.target.wants/pilus-early.service"
# A whole image, for a node that has nothing of ours but its containers: before the network, no runtime runs.
TREE: Final = "var/lib/pilus/early"

_TEXT: Final = """\
# Written by `pilus install --early`: what policies last said about this node, in force before its network is up.
[Unit]
Description=Pilus: the node's own policy, before its network
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service sys-fs-bpf.mount
Before=network-pre.target
Wants=network-pre.target
RequiresMountsFor=/var/lib/pilus
ConditionPathExists=/var/lib/pilus/host-policy.json

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=pilus
RuntimeDirectoryPreserve=yes
TimeoutStartSec=120
{tree}ExecStart={program} --wait 60

[Install]
WantedBy=multi-user.target
"""
_IN_TREE: Final = f"""\
RootDirectory=/{TREE}
MountAPIVFS=yes
BindPaths=/sys/fs/bpf /run/pilus /var/lib/pilus
TemporaryFileSystem=/tmp
"""


@click.command()
@click.option("--early", is_flag=True, required=True, help="Policies about the node hold before its network is up.")
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("/"), show_default=True,
              help="Where the node's file system is; in a container a folder that holds it: the image goes along.")  # fmt: skip
@pass_asking
def install(asking: Asking, early: bool, root: Path) -> None:  # noqa: ARG001  # the one thing there is to install so far
    """Let policies about this node hold from its boot on, by a systemd unit. Needs root."""
    try:
        made = list(install_early(root))
    except OSError as error:
        raise click.ClickException(f"can't write to the node: {error}") from error
    if asking.as_json:
        print_json({"written": [*made]})
    for line in () if asking.as_json else made:
        console().print(f"wrote {safe(line)}")


def unit(program: Path, *, in_tree: bool) -> str:
    return _TEXT.format(tree=_IN_TREE if in_tree else "", program=program)


def install_early(root: Path) -> Iterator[str]:
    """Each path that is written. Raises OSError, and can be called again."""
    program = Path(shutil.which("pilus-early") or Path(sys.executable).with_name("pilus-early"))
    in_tree = root != Path("/")
    if in_tree:
        _copy_image(root / TREE)
        yield f"/{TREE}"
    path = root / UNIT
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(unit(program, in_tree=in_tree))
    draft.chmod(0o644)
    draft.replace(path)
    yield f"/{UNIT}"
    link = root / WANTED  # as `systemctl enable` does, which a container has not
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(f"/{UNIT}")
    yield f"/{WANTED}"


def _copy_image(target: Path) -> None:
    """This file system without what is mounted into it. The one before stays until this one is whole."""
    mounted = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()} - {"/"}
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if os.path.join(folder, name) in mounted]  # noqa: PTH118  # half a million of them

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree("/", draft, symlinks=True, ignore=left_out)
    for folder in ("sys/fs/bpf", "run/pilus", "var/lib/pilus", "proc", "dev", "tmp"):
        (draft / folder).mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
