"""The machine that figures are of: what a reader has to know to compare."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.kernel import ROOT
from bench.traffic import measured_cpu
from pilus_lab.binaries import built


def describe() -> dict[str, str]:
    """What, and which."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu()}, {os.cpu_count()} of them; measured on CPU {measured_cpu()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "virtual": "yes" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "no",
        "Pilus": f"{version('pilus')}, {_said('git', '-C', str(ROOT), 'describe', '--always', '--dirty')}",
        "Python": platform.python_version(),
        "bcc": _said("/usr/bin/python3", "-c", "import bcc; print(bcc.__version__)"),
        "CNI plugins of the peer": _said("dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"),
        "compiler": _said("gcc", "-dumpfullversion"),
    }
    for name, flag in (("kubelet", "--version"), ("kube-proxy", "--version"), ("containerd", "--version")):
        try:
            found[name] = _said(str(built(name)), flag).removeprefix("Kubernetes ")
        except (OSError, RuntimeError):
            continue
    return found


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return "not there"
    return (done.stdout or done.stderr).strip().partition("\n")[0]
