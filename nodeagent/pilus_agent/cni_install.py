"""The plugin and its configuration, where the container runtime looks for them.

In: the plugin's file, the runtime's folders as this process sees them. Out: two files there. Each appears whole or not at all,
and the configuration last: with it the node becomes Ready and pods come.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from pilus_api.errors import PilusError

PLUGIN: Final = "pilus-cni"
CONFIGURATION: Final = "05-pilus.conflist"
BIN_DIR: Final = Path("/opt/cni/bin")
CONF_DIR: Final = Path("/etc/cni/net.d")

_CONTENT: Final = json.dumps({"cniVersion": "1.1.0", "name": "pilus", "plugins": [{"type": PLUGIN}]}, indent=2).encode() + b"\n"
_READ_BY_RUNTIMES: Final = (".conf", ".conflist", ".json")


class InstallError(PilusError):
    """The plugin or its configuration can't be put in its place."""


def install(plugin: Path, bin_dir: Path = BIN_DIR, conf_dir: Path = CONF_DIR) -> tuple[str, ...]:
    """Idempotent: what is right already is not written. Returns the names of other configurations that runtimes prefer to this
    one, because they sort before it. Raises InstallError."""
    try:
        _place(bin_dir / PLUGIN, plugin.read_bytes(), 0o755)
        _place(conf_dir / CONFIGURATION, _CONTENT, 0o644)
        others = sorted(file.name for file in conf_dir.iterdir() if file.suffix in _READ_BY_RUNTIMES)
    except OSError as error:
        raise InstallError(f"can't install the CNI plugin: {error}. Are the node's folders mounted, and writable?") from error
    return tuple(name for name in others if name < CONFIGURATION)


def remove_conf(conf_dir: Path = CONF_DIR) -> None:
    """The node starts no more pods with this network; those that run keep theirs, and the plugin stays for their DEL.
    Idempotent. Raises InstallError."""
    try:
        (conf_dir / CONFIGURATION).unlink(missing_ok=True)
    except OSError as error:
        raise InstallError(f"can't remove the CNI configuration: {error}") from error


def _place(target: Path, content: bytes, mode: int) -> None:
    if _is(target, content, mode):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")  # a suffix that no runtime reads
    try:
        draft.unlink(missing_ok=True)  # of an agent that died here; it may be anything, a link too
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(file, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # whatever the umask is
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _is(target: Path, content: bytes, mode: int) -> bool:
    try:
        return not target.is_symlink() and target.stat().st_mode & 0o7777 == mode and target.read_bytes() == content
    except OSError:
        return False
