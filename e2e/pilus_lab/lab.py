"""A Kubernetes cluster on one machine: real kubelets, a real control plane, nodes made of namespaces.

In: a specification. Out: a running lab, and the means to use it from a test. `down` needs nothing but the record that `up`
wrote before it made anything, and takes down whatever there is.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import yaml

from pilus_api.identities import FIRST_ALLOCATED
from pilus_lab import cgroups, components, image, pki
from pilus_lab.binaries import built, images
from pilus_lab.components import Component
from pilus_lab.spec import Cni, Node, Spec, states
from pilus_lab.supervisor import Orders

T = TypeVar("T")
Say = Callable[[str], None]

SETTINGS = {
    "cluster-name": "default",
    "cluster-id": "0",
    "cluster-pool-ipv4-cidr": "10.44.0.0/16",
    "cluster-pool-ipv4-mask-size": "24",
    "cluster-pool-ipv6-cidr": "fd00:44::/48",
    "cluster-pool-ipv6-mask-size": "64",
    "routing-mode": "tunnel",
    "tunnel-protocol": "vxlan",
    "enable-ipv4": "true",
    "enable-ipv6": "true",
}
_NAMESPACES = ("-m", "-n", "-p", "-u", "-i", "-C")


class LabError(RuntimeError):
    """The lab did not do what it was asked; the message says which log tells more."""


def wait_for(what: str, found: Callable[[], T | None], limit: float = 60.0, pause: float = 0.1) -> T:
    """Ask until ``found`` returns something true, print how long it took, and return it.

    Raises LabError after ``limit`` seconds.
    """
    start = time.monotonic()
    while True:
        answer = found()
        if answer:
            print(f"{what}: after {time.monotonic() - start:.2f} s", flush=True)
            return answer
        if time.monotonic() - start > limit:
            raise LabError(f"{what}: not within {limit:.0f} s")
        time.sleep(pause)


class Place:
    """The control plane, or a node: where components run and commands are run."""

    def __init__(self, spec: Spec, name: str) -> None:
        self.spec = spec
        self.name = name
        self.orders = Orders(spec.socket(name))

    def start(self, component: Component) -> int:
        log = self.spec.logs / (component.name if self.name == "control" else f"{self.name}-{component.name}")
        answer = self.orders(
            do="start", name=component.name, argv=component.argv, env=component.env, log=str(log.with_suffix(".log"))
        )
        return int(answer["pid"])

    def send(self, component: str, number: int = signal.SIGTERM) -> None:
        self.orders(do="signal", name=component, signal=int(number))

    def stop(self, component: str, number: int = signal.SIGTERM) -> None:
        """Signal a component and wait until it has ended. Raises LabError after 20 s."""
        self.send(component, number)
        if self.orders(do="wait", name=component, seconds=20)["status"] is None:
            raise LabError(f"{component} on {self.name} did not end")

    def components(self) -> dict[str, dict[str, int | None]]:
        """name -> pid (in the place's own namespace) and exit status, None while it runs."""
        return dict(self.orders(do="list")["components"])

    def entry(self) -> list[str]:
        """What to put before a command to run it here."""
        namespaces = _NAMESPACES if self.name != "control" else ("-m", "-n", "-p")
        return ["nsenter", "-t", str(self.orders.first_process()), *namespaces, "--"]

    def exec(
        self, command: Sequence[str], *, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and return what it printed. Raises LabError if it fails and ``check`` is set."""
        done = subprocess.run(
            [*self.entry(), *command], capture_output=True, text=True, check=False, timeout=timeout, input=stdin,
            env=os.environ | {"PATH": f"{built('ctr').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        if check and done.returncode:
            raise LabError(f"{' '.join(command)} on {self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return done


class Lab:
    """One lab. As a context manager it is up inside, and down without a trace afterwards."""

    def __init__(
        self,
        name: str = "default",
        *,
        nodes: int = 2,
        cni: Cni = "pilus",
        settings: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        say: Say | None = None,
    ) -> None:
        folders = cgroups.folders_for(name)
        self.spec = Spec(name, nodes, cni, dict(settings or {}), tuple(without), folders)
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._started = time.monotonic()
        self._first: subprocess.Popen[bytes] | None = None  # where this very process brought the lab up
        self._name: IO[str] | None = None  # locked while this process is inside the lab

    @classmethod
    def existing(cls, name: str) -> Self:
        """The lab of that name, up or begun. Raises LabError if there is none."""
        try:
            spec = Spec.load(name)
        except FileNotFoundError:
            known = ", ".join(sorted(path.name for path in states().glob("*"))) or "none"
            raise LabError(f"there is no lab {name!r} (there are: {known}); pilus lab up --name {name} makes it") from None
        lab = cls(name, nodes=spec.node_count, cni=spec.cni, settings=spec.settings, without=spec.without)
        lab.spec = spec
        return lab

    def __enter__(self) -> Self:
        self._hold()
        try:
            self.up()
        except BaseException:
            self._show_logs()
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._show_logs()
        self._leave()

    def _hold(self) -> None:
        """Hold the name as long as this process is inside, after taking down what a process left that held it and was killed.

        Raises LabError if the lab is somebody else's: that one is left alone.
        """
        held, record = self.spec.folder / "held", self.spec.folder / "lab.json"
        if record.exists() and not held.exists():
            raise self._taken()
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        self._name = held.open("w")
        try:
            fcntl.flock(self._name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._name.close()
            raise self._taken() from None
        if record.exists():
            self._say(f"lab {self.spec.name!r} was left by a process that was killed: it is taken down")
            self._name.close()
            Lab.existing(self.spec.name).down()
            self._hold()

    def _leave(self) -> None:
        try:
            self.down()
        finally:
            if self._name is not None:
                self._name.close()

    def _taken(self) -> LabError:
        return LabError(f"lab {self.spec.name!r} is up, or was interrupted: pilus lab down --name {self.spec.name}")

    # -- up and down ---------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring everything up, until every node is Ready (pilus: until the agents serve; without them, until kubelets do).

        Raises LabError if the lab is up already, or something does not start.
        """
        self._started = time.monotonic()
        if (self.spec.folder / "lab.json").exists():
            raise self._taken()
        self.spec.save()
        cgroups.make(self.spec.cgroups, *(node.name for node in self.spec.nodes))
        with ThreadPoolExecutor(16) as pool:
            archives = [pool.submit(image.archive) for image in images()] if self.spec.nodes else []
            control = pool.submit(self._spawn_control)
            tokens = pki.make(self.spec)
            for user, token in tokens.items():
                pki.kubeconfig(self.spec, user, token)
            self.spec.settings_file.write_text(yaml.safe_dump(SETTINGS | self.spec.settings))
            control.result()
            self.control.start(components.etcd(self.spec))
            self.control.start(components.apiserver(self.spec))
            nodes = [pool.submit(self._start_node, node, archives) for node in self.spec.nodes]
            self._wait_ready()
            if self.spec.nodes:
                self.control.start(components.controller_manager(self.spec))
                self.control.start(components.scheduler(self.spec))
            if self.spec.cni == "pilus":
                self._apply_ours()
            for started in nodes:
                started.result()
        if self.spec.nodes and (self.spec.cni == "ptp" or (self.spec.cni == "pilus" and "agent" not in self.spec.without)):
            self._wait_nodes()

    def _spawn_control(self) -> None:
        """Start the lab's first process inside its cgroups, so that whatever comes of it can be found and ended."""
        self.spec.logs.mkdir(parents=True, exist_ok=True)
        with (self.spec.logs / "control-init.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                    sys.executable, "-m", "pilus_lab.control_init", self.spec.name,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: cgroups.join(self.spec.cgroups),  # noqa: PLW1509  # writes files, takes no lock
            )  # fmt: skip
        self._first = process

        def served() -> bool:
            if process.poll() is not None:
                raise LabError(f"the lab's first process ended: see {self.spec.logs}/control-init.log")
            return self.spec.socket("control").exists()

        self._quietly("underlay", served)

    def _start_node(self, node: Node, archives: Sequence["Future[Path]"]) -> None:
        place = self.node(node.name)
        self._quietly(f"node {node.name}", lambda: self.spec.socket(node.name).exists())
        place.start(components.containerd(self.spec, node))
        ctr = [str(built("ctr")), "--connect-timeout", "1s", "--namespace", "k8s.io"]
        self._quietly(f"containerd on {node.name}", lambda: place.exec([*ctr, "version"], check=False).returncode == 0, 30)
        if self.spec.cni == "ptp":
            place.exec(["sh", "-c", f"cp -a {components.PLUGINS}/. /opt/cni/bin/ && cat >/etc/cni/net.d/10-lab.conflist"],
                       stdin=components.ptp_configuration(node))  # fmt: skip
        with ThreadPoolExecutor() as pool:
            imports = [
                pool.submit(place.exec, [*ctr, "images", "import", "--local", str(archive.result())]) for archive in archives
            ]
            place.start(components.kubelet(self.spec, node))
            if self.spec.cni == "ptp":
                place.start(components.kube_proxy(self.spec, node))
            for imported in imports:
                imported.result()
        self._phase(f"images on {node.name}")

    def _wait_ready(self) -> None:
        def ready() -> bool:
            status = self.control.components()["apiserver"]["status"]
            if status is not None:
                raise LabError(f"the API server ended with status {status}: see {self.spec.logs}/apiserver.log")
            return self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0

        self._quietly("API server", ready, 60)

    def _wait_nodes(self) -> None:
        def ready() -> bool:
            held = self.get("nodes", check=False)
            conditions = [
                any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", [])) for item in held
            ]
            return len(conditions) == len(self.spec.nodes) and all(conditions)

        self._quietly(f"{len(self.spec.nodes)} nodes Ready", ready, 90)

    def down(self) -> None:
        """End everything, wherever `up` stopped. Raises LabError if something would not go."""
        left = cgroups.end(self.spec.cgroups)
        if self._first is not None:
            self._first.wait(10)
        if left:
            raise LabError(f"could not take down lab {self.spec.name!r}: {', '.join(left)} would not go")
        shutil.rmtree(self.spec.folder, ignore_errors=True)
        if self.spec.folder.exists():
            raise LabError(f"could not remove {self.spec.folder}")

    # -- our own parts ---------------------------------------------------------------------------------------------------

    def _apply_ours(self) -> None:
        """What `kubectl apply -k manifests/` brings in a cluster: CRDs and rights; then the processes, on the host here."""
        crds = components.REPOSITORY / "crds"
        self.kubectl("apply", "--server-side", f"--kustomize={crds}")
        files = [f"--filename={crds / name}" for name in yaml.safe_load((crds / "kustomization.yaml").read_text())["resources"]]
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
        for name in ("rbac.yaml", "admission.yaml"):
            self.kubectl("apply", "--server-side", "--filename", str(components.REPOSITORY / "manifests" / name))
        self._phase("custom resources")
        with ThreadPoolExecutor() as pool:
            started = []
            if "operator" not in self.spec.without:
                started.append(pool.submit(self.start_operator))
            for node in self.spec.nodes:
                if "agent" not in self.spec.without:
                    started.append(pool.submit(self.start_agent, node.name))
                if "observer" not in self.spec.without:
                    started.append(pool.submit(self.start_observer, node.name))
            for start in started:
                start.result()

    def load_image(self) -> None:
        """The image of Pilus into every node: built if the cache has none that fits."""
        archive = image.build(self._phase)
        self._phase("image of Pilus")
        ctr = [str(built("ctr")), "--namespace", "k8s.io", "images", "import", "--local", str(archive)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: self.node(node.name).exec(ctr, timeout=120), self.spec.nodes))
        self._phase("image of Pilus in every node")

    def write_overlay(self) -> Path:
        """manifests/ with what is this lab's own: where the API server is, and the settings. Returns the folder."""
        self.spec.overlay.mkdir(exist_ok=True)
        manifests = os.path.relpath(components.REPOSITORY / "manifests", self.spec.overlay)
        patch = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "pilus-config", "namespace": "kube-system"},
            "data": SETTINGS | {"k8s-api-server": self.spec.api_url} | self.spec.settings,
        }
        held = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [manifests],
            "patches": [{"patch": yaml.safe_dump(patch)}],
        }
        (self.spec.overlay / "kustomization.yaml").write_text(yaml.safe_dump(held))
        return self.spec.overlay

    def install(self) -> None:
        """Pilus as people install it: its image in every node, then `kubectl apply -k`. Raises LabError if the nodes don't become
        Ready by it."""
        self.load_image()
        self.kubectl("apply", f"--kustomize={self.write_overlay()}")
        self._phase("manifests")
        self.rolled_out()
        self._phase("agents and operators ready")
        self._wait_nodes()

    def rolled_out(self) -> None:
        """Returns when agents and operators are what was applied last. Raises LabError if they don't become so."""
        for what in ("daemonset/pilus", "deployment/pilus-operator"):
            self.kubectl("rollout", "status", what, "--namespace=kube-system", "--timeout=120s", timeout=150)

    def start_operator(self, name: str = "operator") -> None:
        token = self.kubectl("create", "token", "pilus-operator", "--namespace=kube-system").stdout.strip()
        self.control.start(components.operator(self.spec, token, name))

    def start_agent(self, node: str) -> None:
        """Start a node's agent with a token that is bound to the Node object, as a DaemonSet's is."""

        def token() -> str | None:
            done = self.kubectl(
                "create", "token", "pilus-agent", "--namespace=kube-system", "--bound-object-kind=Node",
                f"--bound-object-name={node}", check=False,
            )  # fmt: skip
            return done.stdout.strip() if done.returncode == 0 else None

        # The kubelet has to register the node first.
        held = self._quietly(f"token of {node}", token, 60)
        self.node(node).start(components.agent(self.spec, self._node(node), held))

    def start_observer(self, node: str) -> None:
        self._quietly(f"node {node}", lambda: self.spec.socket(node).exists())
        self.node(node).start(components.observer(self.spec, self._node(node)))

    # -- use -------------------------------------------------------------------------------------------------------------

    @property
    def control(self) -> Place:
        return Place(self.spec, "control")

    def node(self, name: str) -> Place:
        self._node(name)
        return Place(self.spec, name)

    def _node(self, name: str) -> Node:
        for node in self.spec.nodes:
            if node.name == name:
                return node
        raise LabError(f"lab {self.spec.name!r} has no node {name!r}, but {', '.join(n.name for n in self.spec.nodes)}")

    def kubectl_command(self) -> list[str]:
        """What to put before kubectl's arguments."""
        return [
            "nsenter", f"--net=/proc/{self.control.orders.first_process()}/ns/net", "--",
            str(built("kubectl")), f"--kubeconfig={self.spec.kubeconfigs / 'admin'}",
        ]  # fmt: skip

    def kubectl(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the cluster's admin. Raises LabError if it fails and ``check`` is set."""
        done = subprocess.run(
            [*self.kubectl_command(), *arguments],
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=timeout,
        )
        if check and done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def apply(self, text: str) -> None:
        self.kubectl("apply", "--filename=-", stdin=text)

    def get(self, kind: str, *arguments: str, check: bool = True) -> list[dict[str, Any]]:
        """The objects of a kind, as the API server has them; empty if there are none, or it refuses and not ``check``."""
        done = self.kubectl("get", kind, *arguments, "--output=json", check=check)
        if done.returncode:
            return []
        held = json.loads(done.stdout)
        return list(held["items"]) if "items" in held else [held]

    def identity_of(self, pod: str) -> int:
        """What its labels are given, by its CiliumEndpoint; 0 until then: an agent that waits for it says that it is init's."""
        found = self.get("ciliumendpoint", pod, check=False)
        number = int(found[0].get("status", {}).get("identity", {}).get("id", 0)) if found else 0
        return number if number >= FIRST_ALLOCATED else 0

    def wait(self, what: str, found: Callable[[], T | None], limit: float = 60.0) -> T:
        return wait_for(what, found, limit)

    def pod_exec(
        self, pod: str, *command: str, namespace: str = "default", check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        return self.kubectl("exec", f"--namespace={namespace}", pod, "--", *command, check=check, timeout=timeout)

    def apply_coredns(self) -> None:
        self.apply((Path(__file__).parent / "manifests" / "coredns.yaml").read_text())

    # -- telling ---------------------------------------------------------------------------------------------------------

    def _quietly(self, what: str, found: Callable[[], T | None], limit: float = 20.0) -> T:
        deadline = time.monotonic() + limit
        while True:
            answer = found()
            if answer:
                self._phase(what)
                return answer
            if time.monotonic() > deadline:
                raise LabError(f"{what}: not within {limit:.0f} s; the logs are in {self.spec.logs}")
            time.sleep(0.05)

    def _phase(self, what: str) -> None:
        self._say(f"  {time.monotonic() - self._started:5.1f} s  {what}")

    def _show_logs(self) -> None:
        for log in sorted(self.spec.logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            print(f"---- {log.name}: last of {len(lines)} lines", file=sys.stderr)
            print("\n".join(lines[-25:]), file=sys.stderr, flush=True)
