"""The image of Pilus: what a cluster runs, made of distribution packages and this checkout, without any image registry.

In: e2e/image-packages.txt, requirements.lock, our sources, and the machine's own apt and pip. Out: an OCI archive of two layers in
the cache, each named by what it was made from: the distribution with our dependencies (minutes, once), and what is ours (seconds).
"""

import argparse
import compileall
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from packaging.requirements import Requirement

from pilus_lab.oci import Process, layer_of, write_archive
from pilus_lab.spec import cache

REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = REPOSITORY / "e2e" / "image-packages.txt"
_LOCK = REPOSITORY / "requirements.lock"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Folders of ours by the package in them; the lab belongs to the development tree alone.
_OURS = {"crds": ("pilus_api",), "operator": ("pilus_operator",),
         "nodeagent": ("pilus_agent", "pilus_cli", "pilus_cni", "pilus_maps", "pilus_observer")}  # fmt: skip
# Nothing of ours opens these. Licences (usr/share/doc/*/copyright) stay.
_LEFT_OUT = re.compile(
    r"usr/share/(man|info|locale|lintian|bash-completion|bug|pixmaps|applications|binfmts|menu|zoneinfo)(/|$)"
    r"|usr/share/doc/[^/]+/(?!copyright$)|usr/share/python3/debpython|usr/lib/python3[^/]*/(test|idlelib|lib2to3|ensurepip|turtledemo"
    r"|tkinter|distutils|pydoc_data)(/|$)|var/(cache|lib)/.|usr/lib/systemd|usr/lib/[^/]+-linux-gnu/gconv(/|$)|usr/share/(gdb|gcc|perl5)(/|$)"
)

Say = Callable[[str], None]


class ImageError(RuntimeError):
    """The image can't be built; the message says what failed."""


def reference() -> str:
    """Of this checkout's version. `localhost`: no node ever asks somebody else's registry for it."""
    return f"localhost/pilus:{_project()['version']}"


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_requirements() -> str:
    """The lock without what only development needs: what `pilus` itself requires, and what that requires, with all hashes."""
    blocks = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", _LOCK.read_text()):
        named = re.match(r"([A-Za-z0-9._-]+)==", block)
        if named:
            blocks[_normal(named[1])] = re.sub(r"\n\s*#.*", "", block).strip()
    wanted: set[str] = set()
    waiting = [_normal(Requirement(text).name) for text in _project()["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name in wanted:
            continue
        if name not in blocks:
            raise ImageError(f"{name} is not in requirements.lock: make lock")
        wanted.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            raise ImageError(f"{name} is not in the virtual environment: run e2e/bootstrap.sh --without-binaries") from None
        waiting += [_normal(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return "\n".join(blocks[name] for name in sorted(wanted)) + "\n"


def _packages() -> tuple[list[str], set[str]]:
    """What is asked for, and what is left out though a package names it."""
    words = [line.split("#")[0].strip() for line in _PACKAGES.read_text().splitlines()]
    names = [word for word in words if word]
    return [name for name in names if not name.startswith("-")], {name[1:] for name in names if name.startswith("-")}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(f"{command[0]} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout


def _unpack(root: Path, scratch: Path, say: Say) -> None:
    """The packages into `root`: fetched through the machine's own apt, as if nothing were installed, and unpacked. No script of
    any package runs."""
    wanted, unwanted = _packages()
    (scratch / "status").touch()
    (scratch / "archives" / "partial").mkdir(parents=True)
    apt = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", f"Dir::State::status={scratch}/status",
           "-o", f"Dir::Cache::archives={scratch}/archives", "-o", "APT::Sandbox::User=root"]  # fmt: skip
    try:
        listed = _run(*apt, "--print-uris", "install", *wanted)
    except ImageError:
        _run("apt-get", "-q", "update")
        listed = _run(*apt, "--print-uris", "install", *wanted)
    files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
    names = [name for name in files if name.partition("_")[0] not in unwanted]
    say(f"fetching {len(names)} distribution packages")
    # By name and version, so that apt's own choice of sources and its checks of signatures hold for each of them.
    exact = [f"{name.split('_')[0]}={name.split('_')[1].replace('%3a', ':')}" for name in names]
    done = subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *exact], cwd=scratch / "archives",
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise ImageError(f"apt-get download failed: {done.stderr.strip()[-1000:]}")
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((scratch / "archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as reading:
            unpacked = subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)],
                                      stdin=reading.stdout, capture_output=True, text=True, check=False)  # fmt: skip
        if reading.returncode or unpacked.returncode:
            raise ImageError(f"{package.name} can't be unpacked: {unpacked.stderr.strip()}")


def _machine(root: Path) -> None:
    """What maintainers' scripts would have made, as far as anything here looks at it."""
    for name in ("dev", "proc", "sys", "run", "tmp", "etc", "root", "var/lib", "host"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "var" / "run").symlink_to("/run")  # runtimes name network namespaces by either
    (root / "var" / "tmp").symlink_to("/tmp")  # noqa: S108  # inside the image
    (root / "bin" / "sh").unlink(missing_ok=True)
    (root / "bin" / "sh").symlink_to("dash")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
    (root / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc" / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")


def _compile(root: Path, folder: str) -> None:
    """Byte code beside each module, which never looks at its source's time: a container could not write it, and would compile at
    each start. Only for this very interpreter, which is the distribution's."""
    with redirect_stdout(io.StringIO()):
        compileall.compile_dir(root / folder, quiet=2, stripdir=str(root), prependdir="/", workers=0,
                               invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)  # fmt: skip


def _python(root: Path) -> str:
    """The distribution's Python in the image, as `python3.11`. Raises ImageError if it is not this one."""
    (found,) = [path.name for path in (root / "usr" / "bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
    if found != f"python{sys.version_info[0]}.{sys.version_info[1]}":
        raise ImageError(f"the virtual environment has Python {sys.version.split()[0]}, the distribution {found}: make it anew")
    return found


def _base(requirements: str, out: Path, say: Say) -> None:
    """The first layer: the distribution, and what requirements.lock names."""
    with tempfile.TemporaryDirectory(prefix=".image-", dir=out.parent) as folder:
        scratch, root = Path(folder), Path(folder) / "root"
        root.mkdir()
        root.chmod(0o755)
        _unpack(root, scratch, say)
        _machine(root)
        python = _python(root)
        say("installing the Python packages")
        modules = f"usr/local/lib/{python}/dist-packages"
        (scratch / "requirements").write_text(requirements)
        _run(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps",
             "--no-compile", "--root-user-action=ignore", "--target", str(root / modules),
             "-r", str(scratch / "requirements"))  # fmt: skip
        shutil.rmtree(root / modules / "bin", ignore_errors=True)
        for path in (root / modules).rglob("direct_url.json"):
            path.unlink()
        for path in [path for path in root.rglob("*") if _LEFT_OUT.match(str(path.relative_to(root)))]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        say("compiling Python's library")
        for part in (modules, "usr/lib/python3/dist-packages", f"usr/lib/{python}"):
            _compile(root, part)
        say("writing the layer")
        layer_of(root, out)


def _sources() -> Iterable[tuple[Path, str]]:
    """Every file of ours, with its path below `dist-packages`."""
    for folder, packages in _OURS.items():
        for package in packages:
            for path in sorted((REPOSITORY / folder / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield path, str(path.relative_to(REPOSITORY / folder))
    for path in sorted((REPOSITORY / "bpf").iterdir()):
        yield path, f"pilus_agent/datapath/bpf/{path.name}"


def _ours(out: Path) -> None:
    """The second layer."""
    project = _project()
    with tempfile.TemporaryDirectory(prefix=".image-", dir=out.parent) as folder:
        root = Path(folder)
        modules = f"usr/local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/dist-packages"
        for path, inside in _sources():
            target = root / modules / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if inside == "pilus_cni/pilus-cni" else 0o644)
        _compile(root, modules)
        described = root / modules / f"pilus-{project['version']}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pilus\nVersion: {project['version']}\n")
        programs = root / "usr" / "local" / "bin"
        programs.mkdir()
        for name, entry in sorted(project["scripts"].items()):
            module, _, function = entry.partition(":")
            text = f"#!/usr/bin/python3 -I\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        layer_of(root, out)


def _named(kind: str, *parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return f"{kind}-{digest.hexdigest()[:16]}.tar"


def build(say: Say = lambda _: None, *, fresh: bool = False) -> Path:
    """The archive, made of what is in the cache as far as it fits. `fresh`: take the distribution's packages of today. Raises
    ImageError."""
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".pilus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that start at once build once
        requirements = runtime_requirements()
        recipe = Path(__file__).read_bytes() + Path(__file__).with_name("oci.py").read_bytes()
        base = folder / _named("pilus-base", requirements, _PACKAGES.read_bytes(), recipe)
        if fresh or not base.exists():
            started = time.monotonic()
            _base(requirements, base, say)
            say(f"the distribution's layer took {time.monotonic() - started:.0f} s")
        held = [part for path, inside in _sources() for part in (inside, path.read_bytes())]
        ours = folder / _named("pilus-ours", recipe, json.dumps(_project()["scripts"]), _project()["version"], *held)
        if not ours.exists():
            _ours(ours)
        stat = base.stat()
        out = folder / _named("pilus", base.name, ours.name, f"{stat.st_mtime_ns}", reference())
        if not out.exists():
            env = (f"PATH={_PATH}", "PYTHONUNBUFFERED=1", "LANG=C.UTF-8")
            write_archive(out, reference(), [base, ours], Process(("/usr/local/bin/pilus",), env))
        _keep_newest(folder, "pilus-base-*.tar", base, 2)
        _keep_newest(folder, "pilus-ours-*.tar", ours, 4)
        _keep_newest(folder, "pilus-[0-9a-f]*.tar", out, 3)
    return out


def _keep_newest(folder: Path, pattern: str, used: Path, number: int) -> None:
    """A few of each kind: archives are large, and every change of a source makes one."""
    os.utime(used, ns=(time.time_ns(), used.stat().st_mtime_ns))
    found = sorted((path for path in folder.glob(pattern) if path != used), key=lambda path: path.stat().st_atime_ns)
    for path in found[: max(0, len(found) - number + 1)]:
        path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="take the distribution's packages of today")
    started = time.monotonic()
    try:
        archive = build(lambda text: print(f"{time.strftime('%T')}  {text}", file=sys.stderr, flush=True),
                        fresh=parser.parse_args().fresh)  # fmt: skip
    except ImageError as error:
        print(f"the image can't be built: {error}", file=sys.stderr)
        return 1
    print(f"{reference()}, {archive.stat().st_size / 1e6:.0f} MB, in {time.monotonic() - started:.1f} s", file=sys.stderr)
    print(archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
