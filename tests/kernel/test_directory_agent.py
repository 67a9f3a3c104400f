"""The agent without Kubernetes: a real process, a directory of manifests, two network namespaces as pods."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import termios
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pilus_lab import LabError, wait_for
from pilus_lab.probe import reaches, within

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

BIN = Path(sys.executable).parent
HOST = """
set -e
mount -t bpf bpf /sys/fs/bpf
mkdir -p /var/lib/pilus
mount -t tmpfs tmpfs /var/lib/pilus
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add eth0 type veth peer name eth1
ip addr add 172.31.0.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
exec "$0" --node-name edge --source-dir "$1"
"""
NODE = """
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: edge}
spec: {addresses: [{type: InternalIP, ip: 172.31.0.1}], ipam: {podCIDRs: [10.9.0.0/24, "fd09::/112"]}}
"""
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""
ALLOWING = CLOSED.replace("[Ingress]}", "[Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}")


def pod(name: str, netns: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{pilus.io/network-namespace: {netns}}}}}
"""


class Machine:
    """One agent, its directory, and pods that are nothing but namespaces."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._log = folder.parent / "agent.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.agent = subprocess.Popen(
                ["unshare", "--mount", "--net", "--propagation", "private", "--", "bash", "-c", HOST,
                 str(BIN / "pilus-agent"), str(self.folder)],
                stdout=log, stderr=log,
            )  # fmt: skip
        self._stack.callback(self.stop)

    def stop(self) -> None:
        self.agent.terminate()
        self.agent.wait(20)

    def pod(self, name: str) -> int:
        """A new pod; a descriptor of its namespace."""
        made = subprocess.Popen(["unshare", "--net", "--", "sleep", "infinity"])
        self._stack.callback(made.wait)
        self._stack.callback(made.kill)
        own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  # a magic link
        path = f"/proc/{made.pid}/ns/net"
        wait_for("the pod's namespace", lambda: os.stat(path).st_ino != own, 10)  # noqa: PTH116
        fd = os.open(path, os.O_RDONLY)
        self._stack.callback(os.close, fd)
        self.write(f"{name}.yaml", pod(name, path))
        return fd

    def write(self, name: str, text: str) -> None:
        scratch = self.folder / f".{name}"
        scratch.write_text(text)
        scratch.replace(self.folder / name)

    def endpoints(self) -> dict[str, dict[str, str]]:
        done = subprocess.run(
            ["nsenter", "--target", str(self.agent.pid), "--mount", "--", str(BIN / "pilus"), "-o", "json", "endpoint", "list"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return {one["name"]: one for one in json.loads(done.stdout)} if done.returncode == 0 else {}

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "node.yaml").write_text(NODE)
    with ExitStack() as stack:
        made = Machine(folder, stack)
        yield made
    print(made.log())


def listen(namespace: int, stack: ExitStack) -> None:
    """Something on TCP port 80, both families, that accepts without a thread: the kernel's queue does."""

    def work() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.bind(("::", 80))
        made.listen(64)
        return made

    stack.callback(within(namespace, work).close)


def acknowledged(stream: socket.socket) -> bool:
    """Whether the other side has acknowledged everything that was sent."""
    waiting = array("i", [0])
    fcntl.ioctl(stream.fileno(), termios.TIOCOUTQ, waiting)
    return waiting[0] == 0


def test_an_open_connection_ends_with_what_allowed_it(machine: Machine) -> None:
    with ExitStack() as stack:
        web, client = machine.pod("web"), machine.pod("client")
        wait_for("both pods", lambda: [one["state"] for one in machine.endpoints().values()] == ["ready"] * 2, 30)
        listen(web, stack)
        found = machine.endpoints()["web"]
        open_ones = []
        for address in (found["ipv4"], found["ipv6"]):
            wait_for("a connection", partial(within, client, partial(reaches, address, 80)), 10)
            stream = within(client, partial(socket.create_connection, (address, 80), 5))
            open_ones.append(stack.enter_context(stream))

        def answered(limit: float) -> set[bool]:
            for stream in open_ones:
                stream.send(b"?")
            for stream in open_ones:
                try:
                    wait_for("an acknowledgement", partial(acknowledged, stream), limit, 0.01)
                except LabError:
                    return {False}
            return {True}

        assert answered(5) == {True}
        machine.write("policy.yaml", ALLOWING)
        wait_for("the policy", lambda: machine.endpoints()["web"]["ingress_enforced"], 10)
        assert answered(5) == {True}, "a policy that allows it has cut an open connection"
        machine.write("policy.yaml", CLOSED)
        wait_for("the connections to be cut", lambda: answered(0.3) == {False}, 10)
        machine.write("policy.yaml", ALLOWING)
        wait_for("the connections to go on", lambda: all(acknowledged(stream) for stream in open_ones), 30)


def test_policy_and_pods_from_a_directory(machine: Machine) -> None:
    with ExitStack() as stack:
        web, client = machine.pod("web"), machine.pod("client")
        wait_for("both pods", lambda: {one.get("state") for one in machine.endpoints().values()} == {"ready"}
                 and len(machine.endpoints()) == 2, 30)  # fmt: skip
        listen(web, stack)
        found = machine.endpoints()["web"]
        addresses = (found["ipv4"], found["ipv6"])

        def reached() -> set[bool]:
            return {within(client, partial(reaches, address, 80, limit=0.5)) for address in addresses}

        wait_for("the first connections", lambda: reached() == {True}, 10)
        machine.write("policy.yaml", CLOSED)
        wait_for("the policy to be enforced", lambda: reached() == {False}, 10)
        machine.write("policy.yaml", "kind: [")
        wait_for("the broken file to be read", lambda: "broken" in machine.log(), 10)
        assert reached() == {False}, "a broken file took the policy out of force"
        (machine.folder / "policy.yaml").unlink()
        wait_for("the policy to go", lambda: reached() == {True}, 10)
        (machine.folder / "client.yaml").unlink()
        wait_for("the client to go", lambda: set(machine.endpoints()) == {"web"}, 10)
        assert reached() == {False}
