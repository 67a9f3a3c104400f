"""Every right that the manifests give, by name: one that is added there has to be added here, by somebody who has thought of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_agent.sources import kubernetes, services
from pilus_api.policy_kinds import POLICY_KINDS
from pilus_lab.image import reference

MANIFESTS = Path(__file__).parents[3] / "manifests"

_READ = ["list", "watch"]
AGENT = {
    ("", "nodes"): ["get", *_READ],
    ("", "pods"): _READ,
    ("", "namespaces"): _READ,
    ("", "services"): _READ,
    ("discovery.k8s.io", "endpointslices"): _READ,
    ("networking.k8s.io", "networkpolicies"): _READ,
    ("policy.networking.k8s.io", "adminnetworkpolicies"): _READ,
    ("policy.networking.k8s.io", "baselineadminnetworkpolicies"): _READ,
    ("policy.networking.k8s.io", "clusternetworkpolicies"): _READ,
    ("cilium.io", "ciliumnetworkpolicies"): _READ,
    ("cilium.io", "ciliumclusterwidenetworkpolicies"): _READ,
    ("cilium.io", "ciliumcidrgroups"): _READ,
    ("cilium.io", "ciliumidentities"): _READ,
    ("cilium.io", "ciliumendpointslices"): _READ,
    ("cilium.io", "ciliumnodes"): ["create", "get", *_READ[:1], "patch", *_READ[1:]],
    ("cilium.io", "ciliumendpoints"): ["create", "patch"],
    ("pilus.io", "pilusrangeclaims"): _READ,
    ("pilus.io", "pilusnodestatuses"): ["create", "patch"],
}
OPERATOR = {
    ("", "pods"): _READ,
    ("", "namespaces"): _READ,
    ("", "nodes"): ["get", *_READ],
    ("", "events"): ["create"],
    ("apiextensions.k8s.io", "customresourcedefinitions"): _READ,
    ("cilium.io", "ciliumnetworkpolicies"): _READ,
    ("cilium.io", "ciliumclusterwidenetworkpolicies"): _READ,
    ("cilium.io", "ciliumendpoints"): _READ,
    ("cilium.io", "ciliumnetworkpolicies/status"): ["patch"],
    ("cilium.io", "ciliumclusterwidenetworkpolicies/status"): ["patch"],
    ("networking.k8s.io", "networkpolicies"): _READ,
    **{("policy.networking.k8s.io", f"{kind}networkpolicies"): _READ for kind in ("admin", "baselineadmin", "cluster")},
    **{("policy.networking.k8s.io", f"{kind}networkpolicies/status"): ["patch"] for kind in ("admin", "baselineadmin", "cluster")},
    ("cilium.io", "ciliumidentities"): ["create", "delete", "list", "patch", "watch"],
    ("cilium.io", "ciliumendpointslices"): ["create", "delete", "get", "list", "update", "watch"],
    ("cilium.io", "ciliumnodes"): ["create", "delete", "get", "list", "patch", "watch"],
    ("pilus.io", "pilusrangeclaims"): ["create", "delete", "get", "list", "watch"],
    ("pilus.io", "pilusnodestatuses"): _READ,
}
OPERATOR_IN_KUBE_SYSTEM = {
    ("coordination.k8s.io", "leases"): ["create"],
    ("coordination.k8s.io", "leases/pilus-operator"): ["get", "update"],
}


def documents() -> list[dict[str, Any]]:
    """Every object of every manifest that `kubectl apply -k manifests/` takes, but for the definitions of kinds."""
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    files = [MANIFESTS / name for name in listed if name != "../crds"]
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def rights(role: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for rule in role["rules"]:
        assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}, "no other kind of right"
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    key = (group, f"{resource}/{name}" if name else resource)
                    found[key] = sorted({*found.get(key, []), *rule["verbs"]})
    return found


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("ClusterRole", "pilus-agent", AGENT),
        ("ClusterRole", "pilus-operator", OPERATOR),
        ("Role", "pilus-operator", OPERATOR_IN_KUBE_SYSTEM),
    ],
)
def test_every_right_is_named(kind: str, name: str, wanted: dict[tuple[str, str], list[str]]) -> None:
    (role,) = [held for held in documents() if held["kind"] == kind and held["metadata"]["name"] == name]
    assert rights(role) == {key: sorted(verbs) for key, verbs in wanted.items()}


def test_an_agent_may_watch_what_it_watches() -> None:
    for kind in (*kubernetes.KINDS, *services.KINDS):
        parts = kind.path.split("/")
        group = "" if parts[1] == "api" else parts[2]
        assert set(AGENT[group, parts[-1]]) >= {"list", "watch"}, kind.path


def test_an_operator_may_watch_every_kind_of_policy_and_write_what_has_a_status() -> None:
    for kind in POLICY_KINDS:
        group = kind.version.partition("/")[0]
        assert set(OPERATOR[group, kind.plural]) == {"list", "watch"}, kind.path
        assert ((group, f"{kind.plural}/status") in OPERATOR) != kind.builtin, kind.path


def test_nobody_else_is_given_anything() -> None:
    roles = {(held["kind"], held["metadata"]["name"]) for held in documents() if held["kind"].endswith("Role")}
    assert roles == {("ClusterRole", "pilus-agent"), ("ClusterRole", "pilus-operator"), ("Role", "pilus-operator")}
    for held in documents():
        if held["kind"].endswith("RoleBinding"):
            name = held["metadata"]["name"]
            assert held["roleRef"]["name"] == name
            assert held["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}]


def test_no_right_of_a_wildcard_and_none_to_secrets() -> None:
    for held in documents():
        for rule in held.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


def test_containers_have_the_capabilities_that_are_named_and_no_more() -> None:
    wanted = {"agent": {"BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN"}, "observer": {"BPF"}, "operator": set()}
    found = {}
    for held in documents():
        if held["kind"] in ("DaemonSet", "Deployment"):
            for container in held["spec"]["template"]["spec"]["containers"]:
                context = container["securityContext"]
                assert not context.get("privileged")
                assert context["readOnlyRootFilesystem"]
                assert context["capabilities"]["drop"] == ["ALL"]
                found[container["name"]] = set(context["capabilities"].get("add", []))
    assert found == wanted


def test_only_who_asks_the_api_server_has_a_token() -> None:
    for held in documents():
        if held["kind"] == "ServiceAccount":
            assert held["automountServiceAccountToken"] is False
        if held["kind"] in ("DaemonSet", "Deployment"):
            for container in held["spec"]["template"]["spec"]["containers"]:
                mounts = {mount["name"] for mount in container["volumeMounts"]}
                assert ("api-access" in mounts) == (container["name"] in ("agent", "operator"))


def test_manifests_name_the_image_that_is_built() -> None:
    files = [MANIFESTS / name for name in ("agent.yaml", "operator.yaml", "uninstall/uninstall.yaml", "early/early.yaml")]
    named = {line.split("image:")[1].strip() for file in files for line in file.read_text().splitlines() if "image:" in line}
    assert named == {reference()}
