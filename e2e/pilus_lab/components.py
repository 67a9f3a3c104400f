"""The command lines of everything that a lab runs.

In: the lab's record, and where the binaries are. Out: a command and the files it reads. Starts nothing.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from pilus_lab.binaries import REGISTRY, built, packaged
from pilus_lab.pki import kubeconfig
from pilus_lab.spec import API_PORT, DNS_ADDRESS, POD_RANGES, SERVICE_RANGES, Node, Spec

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLUGINS = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Component:
    """One program of the lab: where it runs is the caller's business."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


def _component(name: str, program: Path, *arguments: str, **env: str) -> Component:
    return Component(name, (str(program), *arguments), {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"} | env)


def _flags(**values: object) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def etcd(spec: Spec) -> Component:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return _component(
        "etcd",
        packaged("/usr/bin/etcd"),
        *_flags(
            data_dir=spec.etcd, listen_client_urls=client, advertise_client_urls=client, log_level="warn",
            listen_peer_urls=peer, initial_advertise_peer_urls=peer, initial_cluster=f"default={peer}", logger="zap",
        ),
    )  # fmt: skip


def apiserver(spec: Spec) -> Component:
    pki = spec.pki
    return _component(
        "apiserver",
        built("kube-apiserver"),
        *_flags(
            etcd_servers="http://127.0.0.1:2379", advertise_address=spec.api_address, bind_address="0.0.0.0",  # noqa: S104
            secure_port=API_PORT, cert_dir=pki, tls_cert_file=pki / "apiserver.crt",
            tls_private_key_file=pki / "apiserver.key", client_ca_file=pki / "ca.crt", token_auth_file=pki / "tokens.csv",
            authorization_mode="Node,RBAC", enable_admission_plugins="NodeRestriction", allow_privileged="true",
            service_account_issuer="https://kubernetes.default.svc", service_account_key_file=pki / "sa.pub",
            service_account_signing_key_file=pki / "sa.key", service_cluster_ip_range=SERVICE_RANGES,
            kubelet_client_certificate=pki / "kubelet-client.crt", kubelet_client_key=pki / "kubelet-client.key",
            kubelet_preferred_address_types="InternalIP", requestheader_client_ca_file=pki / "ca.crt",
            requestheader_allowed_names="front-proxy-client", requestheader_username_headers="X-Remote-User",
            requestheader_group_headers="X-Remote-Group", requestheader_extra_headers_prefix="X-Remote-Extra-",
            proxy_client_cert_file=pki / "front-proxy-client.crt", proxy_client_key_file=pki / "front-proxy-client.key",
            profiling="false",
        ),
    )  # fmt: skip


def controller_manager(spec: Spec) -> Component:
    config = spec.kubeconfigs / "system-kube-controller-manager"
    return _component(
        "controller-manager",
        built("kube-controller-manager"),
        *_flags(
            kubeconfig=config, authentication_kubeconfig=config, authorization_kubeconfig=config, leader_elect="false",
            # With the default of 20 requests a second its controllers start 4.5 s late.
            kube_api_qps=500, kube_api_burst=1000, root_ca_file=spec.pki / "ca.crt", bind_address="127.0.0.1",
            service_account_private_key_file=spec.pki / "sa.key", use_service_account_credentials="true",
            # Pod ranges are the operator's to give (pilus) or stand in the plugin's configuration (ptp).
            allocate_node_cidrs="false", cluster_cidr=POD_RANGES, controllers="*,-cloud-node-lifecycle-controller",
        ),
    )  # fmt: skip


def scheduler(spec: Spec) -> Component:
    config = spec.kubeconfigs / "system-kube-scheduler"
    return _component(
        "scheduler",
        built("kube-scheduler"),
        *_flags(
            kubeconfig=config, authentication_kubeconfig=config, authorization_kubeconfig=config, leader_elect="false",
            bind_address="127.0.0.1",
        ),
    )  # fmt: skip


def containerd(spec: Spec, node: Node) -> Component:
    configuration = spec.node_folder(node.name) / "containerd.toml"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(
        f"""version = 3
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{REGISTRY}/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE a sandbox's score can't be lowered, and runc's error names something else altogether.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{packaged("/usr/sbin/runc", "/usr/bin/runc")}"
    SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
  use_internal_loopback = true
"""
    )
    program = built("containerd")
    return _component("containerd", program, "--config", str(configuration), PATH=f"{program.parent}:{_PATH}")


def kubelet(spec: Spec, node: Node) -> Component:
    folder = spec.node_folder(node.name)
    folder.mkdir(parents=True, exist_ok=True)
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    configuration = folder / "kubelet.yaml"
    configuration.write_text(  # JSON is YAML
        json.dumps(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": str(node.ipv4),
                "healthzBindAddress": "127.0.0.1",
                "failCgroupV1": False,
                "cgroupDriver": "cgroupfs",
                "cgroupsPerQOS": True,
                "enforceNodeAllocatable": ["pods"],
                "failSwapOn": False,
                "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
                "clusterDNS": [DNS_ADDRESS],
                "clusterDomain": "cluster.local",
                "resolvConf": str(resolv),
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(spec.pki / "ca.crt")},
                },
                "authorization": {"mode": "Webhook"},
                "rotateCertificates": False,
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "evictionHard": {
                    "memory.available": "50Mi",
                    "nodefs.available": "1%",
                    "imagefs.available": "1%",
                    "nodefs.inodesFree": "1%",
                    "imagefs.inodesFree": "1%",
                    "pid.available": "1%",
                },
                "maxPods": 110,
                "protectKernelDefaults": True,
                "syncFrequency": "10s",
                "nodeStatusUpdateFrequency": "5s",
                "shutdownGracePeriod": "0s",
                "containerLogMaxSize": "5Mi",
            }
        )
    )
    return _component(
        "kubelet",
        built("kubelet"),
        *_flags(
            config=configuration, kubeconfig=spec.kubeconfigs / f"system-node-{node.name}",
            hostname_override=node.name, node_ip=f"{node.ipv4},{node.ipv6}",
        ),
    )  # fmt: skip


def kube_proxy(spec: Spec, node: Node) -> Component:
    configuration = spec.node_folder(node.name) / "kube-proxy.yaml"
    configuration.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "hostnameOverride": node.name,
                "clusterCIDR": POD_RANGES,
                "clientConnection": {"kubeconfig": str(spec.kubeconfigs / "system-kube-proxy")},
                "healthzBindAddress": "127.0.0.1:10256",
                "metricsBindAddress": "127.0.0.1:10249",
                # Connection tracking limits are the machine's, not the node's to set.
                "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            }
        )
    )
    return _component("kube-proxy", built("kube-proxy"), f"--config={configuration}")


def ptp_configuration(node: Node) -> str:
    """The CNI configuration of the peer that Pilus is measured against."""
    ipv4, ipv6 = node.static_ranges
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [
                {
                    "type": "ptp",
                    "mtu": 1450,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/cni-ipam",
                        "ranges": [[{"subnet": ipv4}], [{"subnet": ipv6}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    )


def _ours(name: str, *arguments: str) -> Component:
    """One of our processes, from the virtual environment that runs the lab."""
    return _component(name, Path(sys.executable).parent / f"pilus-{name}", *arguments, PYTHONUNBUFFERED="1")


def agent(spec: Spec, node: Node, token: str) -> Component:
    return _ours(
        "agent",
        *_flags(node_name=node.name, kubeconfig=kubeconfig(spec, f"agent-{node.name}", token), config=spec.settings_file),
    )


def observer(spec: Spec, node: Node) -> Component:
    return _ours("observer", *_flags(node_name=node.name, config=spec.settings_file))


def operator(spec: Spec, token: str, name: str = "operator") -> Component:
    made = _ours("operator", *_flags(kubeconfig=kubeconfig(spec, name, token), config=spec.settings_file))
    return Component(name, made.argv, made.env)
