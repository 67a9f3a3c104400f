"""The demo: an application from plain manifests on two nodes, a policy, and what the system itself says of them.

In: nothing. Out: words on a terminal, every one of them asked of the running system. Ends with an error if a connection that
the policy allows does not come about, or one that it denies does.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pilus_lab.lab import Lab, LabError, wait_for
from pilus_lab.spec import states

NAME = "demo"
MANIFESTS = Path(__file__).parents[2] / "manifests" / "examples" / "demo"
_BOLD, _DIM, _OFF = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text: str) -> None:
    print(f"\n{_BOLD}{text}{_OFF}", flush=True)


def show(command: str, text: str) -> None:
    print(f"{_DIM}$ {command}{_OFF}")
    print(text.rstrip(), flush=True)


class Demo:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def kubectl(self, *arguments: str) -> None:
        show(f"kubectl {' '.join(arguments)}", self._lab.kubectl(*arguments).stdout)

    def pilus(self, node: str, *arguments: str) -> None:
        show(f"pilus {' '.join(arguments)}    # on node {node}", self._ask(node, *arguments))

    def _ask(self, node: str, *arguments: str) -> str:
        program = str(Path(sys.executable).with_name("pilus"))
        return self._lab.node(node).exec(["env", "COLUMNS=170", program, *arguments]).stdout

    def pods(self, app: str) -> list[dict[str, Any]]:
        return self._lab.get("pods", f"--selector=app={app}")

    def start(self) -> None:
        say("An application: two web servers behind a Service, two clients, one stranger, on two nodes")
        self._lab.apply_coredns()
        self._lab.apply((MANIFESTS / "application.yaml").read_text())
        self._lab.kubectl("rollout", "status", "deployment/web", "deployment/client", "--timeout=60s")
        self._lab.kubectl("wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
        self._lab.kubectl("rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=60s")
        self.kubectl("get", "pods,services", "--output=wide")
        say("A policy: only app=client may reach app=web, on its port")
        print((MANIFESTS / "policy.yaml").read_text().rstrip())
        self._lab.apply((MANIFESTS / "policy.yaml").read_text())
        wait_for("the policy to be enforced on both nodes", self._enforced, 30)
        self.kubectl("get", "ciliumnetworkpolicies")

    def _enforced(self) -> bool:
        held = self._lab.get("ciliumnetworkpolicies")
        return any((one.get("status") or {}).get("enforced") == "2/2" for one in held)

    def identities(self) -> None:
        say("Identities: a number for every set of labels, the same on every node")
        self.kubectl("get", "ciliumidentities", "--output=custom-columns=IDENTITY:.metadata.name,APP:.security-labels.k8s\\:app,"
                     "NAMESPACE:.security-labels.k8s\\:io\\.kubernetes\\.pod\\.namespace")  # fmt: skip
        say("Which pod has which address and identity")
        self.kubectl("get", "ciliumendpoints", "--all-namespaces")
        say("What that means for a web server, in the kernel of its node")
        web = self.pods("web")[0]
        self.pilus(web["spec"]["nodeName"], "policy", "get", f"default/{web['metadata']['name']}")

    def connections(self) -> bool:
        say("Who may talk to whom: the Service's name, and each server by its address")
        fine = True
        web = self.pods("web")
        for pod in (*self.pods("client"), *self.pods("stranger")):
            name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
            wanted = pod["metadata"]["labels"]["app"] == "client"
            targets = [("Service web", "web:80")]
            for server in web:
                where = "same node" if server["spec"]["nodeName"] == node else "other node"
                for held in server["status"]["podIPs"]:
                    address = f"[{held['ip']}]" if ":" in held["ip"] else held["ip"]
                    targets.append((where, f"{address}:8080"))
            for where, target in targets:
                done = self._lab.pod_exec(name, "/agnhost", "connect", target, "--timeout=2s", check=False)
                allowed = done.returncode == 0
                fine = fine and allowed == wanted
                verdict = "connected" if allowed else f"denied ({done.stderr.split()[0] if done.stderr.split() else 'no answer'})"
                print(f"  {name:28} on {node} -> {where:11} {target:28} {verdict}", flush=True)
        return fine

    def events(self) -> None:
        say("The events for them, from the kernel of each node")
        for node in ("n1", "n2"):
            lines = self._ask(node, "monitor", "--last", "500", "--no-follow").splitlines()
            denied = [line for line in lines if "DROPPED" in line and "default/stranger" in line]
            passed = [line for line in lines if "FORWARDED" in line and "default/client" in line and "default/web" in line]
            show(f"pilus monitor --no-follow    # on node {node}: the last of each kind", "\n".join(passed[-4:] + denied[-4:]))

    def next(self) -> None:
        say("What to type next")
        print(f"""  .venv/bin/pilus lab kubectl --name {NAME} -- get pods,cep,cnp -A
  .venv/bin/pilus lab exec --name {NAME} n1 -- pilus status
  .venv/bin/pilus lab exec --name {NAME} n1 -- pilus monitor
  .venv/bin/pilus lab exec --name {NAME} n1 -- pilus endpoint list      (identity, ipcache, policy, service, flow, node)
  make demo-down      takes everything down and leaves nothing behind (without make: e2e/demo-down.sh)""")


def up(name: str) -> int:
    began = time.monotonic()
    if (states() / name / "lab.json").exists():
        print("the demo is up already, or was cut off: make demo-down, then make demo", file=sys.stderr)
        return 1
    say("A cluster of two nodes: etcd, kube-apiserver, kubelets and containerd are real, and so is every packet")
    lab = Lab(name, nodes=2)
    lab.up()
    demo = Demo(lab)
    demo.start()
    demo.identities()
    fine = demo.connections()
    demo.events()
    print(f"\n{time.monotonic() - began:.0f} s from nothing to here")
    demo.next()
    if not fine:
        print("\nnot every connection did what the policy says: pilus lab logs --name demo", file=sys.stderr)
    return 0 if fine else 1


def down(name: str) -> int:
    if not (states() / name / "lab.json").exists():
        print("no demo is up", file=sys.stderr)
        return 0
    Lab.existing(name).down()
    print("the demo is down")
    return 0


def main() -> int:
    try:
        return {"up": up, "down": down}[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else NAME)
    except (LabError, subprocess.CalledProcessError, TimeoutError) as error:
        print(f"\nthe demo failed: {error}\nthe logs: pilus lab logs --name {NAME}; take it down: make demo-down", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
