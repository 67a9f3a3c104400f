"""A real API server takes the generated definitions, and refuses and accepts what the models do."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_api.resources import KINDS, Kind
from pilus_api.schema import rendered
from pilus_lab.binaries import built
from pilus_lab.lab import Lab

pytestmark = pytest.mark.lab

EXAMPLES = os.environ.get("PILUS_EXAMPLES", "")


def examples() -> list[Any]:
    if not EXAMPLES:
        return [pytest.param(None, marks=pytest.mark.skip(reason="PILUS_EXAMPLES names no folder of upstream policies"))]
    found = [
        pytest.param(policy, id=f"{path.relative_to(EXAMPLES)}:{number}")
        for path in sorted(Path(EXAMPLES).rglob("*.yaml"))
        for number, policy in enumerate(yaml.safe_load_all(path.read_text()))
        if policy and policy["kind"] in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
    ]
    assert found, f"there is no policy in {EXAMPLES}"
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Lab]:
    try:
        built("kube-apiserver")
    except (OSError, RuntimeError) as error:
        pytest.skip(f"there is no API server to ask: {error}")
    with Lab("apitest", nodes=0, cni="ptp") as lab:
        for text in rendered().values():
            lab.kubectl("apply", "--server-side", "--filename=-", stdin=text)
        names = [f"crd/{kind.crd_name}" for kind in KINDS]
        lab.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        yield lab


def create(server: Lab, obj: dict[str, Any], *, dry: bool = True) -> subprocess.CompletedProcess[str]:
    # Unknown fields are pruned, as a client without strict validation has it: examples carry some in their metadata.
    only = ["--dry-run=server"] if dry else []
    return server.kubectl("create", *only, "--validate=false", "--filename=-", check=False, stdin=json.dumps(obj))


def test_refused(server: Lab, refused: dict[str, Any]) -> None:
    done = create(server, refused["policy"])
    assert done.returncode, f"accepted: {done.stdout}"
    assert "is invalid" in done.stderr
    assert refused.get("api", refused["says"]) in done.stderr
    # What is not to match a part of the schema is named in what is said of it.
    fields = re.findall(r"""(?:invalid:|^\*) (?:<nil>: Invalid value: "": ")?(<nil>|[\w.\[\]]+)""", done.stderr, re.MULTILINE)
    assert any(_within(field, refused["path"]) for field in fields), (fields, done.stderr)


def _within(inner: str, outer: str) -> bool:
    """Of two fields; `inner` is the API server's, to which the whole object is `<nil>`, and to us ""."""
    return inner == (outer or "<nil>") or (bool(outer) and inner.startswith((f"{outer}.", f"{outer}[")))


def test_ten_megabytes_are_refused(server: Lab) -> None:
    """Whoever watches never sees them."""
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "big", "namespace": "default"},
        "spec": {"endpointSelector": {}, "description": "x" * (10 << 20)},
    }  # fmt: skip
    done = create(server, policy)
    assert done.returncode
    assert "limit is 3145728" in done.stderr


def test_accepted(server: Lab, accepted: dict[str, Any]) -> None:
    done = create(server, accepted["policy"])
    assert done.returncode == 0, done.stderr


def _administrators(kind: str, spec: str, name: str = "default") -> dict[str, Any]:
    version = "v1beta1" if kind == "ClusterNetworkPolicy" else "v1alpha1"
    held = {"subject": {"namespaces": {}}} | yaml.safe_load(spec)
    return {"apiVersion": f"policy.networking.k8s.io/{version}", "kind": kind, "metadata": {"name": name}, "spec": held}


_PODS = "{pods: {podSelector: {}}}"
_ADMIN, _CLUSTER = "priority: 1", "priority: 1, tier: Admin"
_TO = "egress: [{{action: Deny, to: [{}]}}]"


@pytest.fixture(scope="module")
def administrators(server: Lab) -> Lab:
    folder = Path(__file__).parents[3] / "crds/network-policy-api"
    server.kubectl("apply", "--server-side", "--kustomize", str(folder))
    names = [f"crd/{yaml.safe_load(path.read_text())['metadata']['name']}" for path in folder.glob("*.k8s.io.yaml")]
    assert len(names) == 3
    server.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return server


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (_administrators("BaselineAdminNetworkPolicy", "{}"), ""),
        (_administrators("BaselineAdminNetworkPolicy", "{}", name="other"), "the one baseline of a cluster is named default"),
        (_administrators("AdminNetworkPolicy", f"{{{_ADMIN}, {_TO.format('{networks: [10.0.0.0/8, fd00::/8]}')}}}"), ""),
        (
            _administrators("AdminNetworkPolicy", f"{{{_ADMIN}, {_TO.format('{networks: [10.0.0.1/8]}')}}}"),
            "no bits behind its prefix",
        ),
        (_administrators("AdminNetworkPolicy", f"{{{_ADMIN}, {_TO.format('{networks: [ten]}')}}}"), "networks"),
        (_administrators("AdminNetworkPolicy", f"{{{_ADMIN}, {_TO.format(_PODS)}}}"), "namespaceSelector"),
        (_administrators("ClusterNetworkPolicy", f"{{{_CLUSTER}, {_TO.format(_PODS)}}}"), ""),
        (_administrators("ClusterNetworkPolicy", f"{{{_CLUSTER}, subject: {_PODS}, {_TO.format('{}')}}}"), ""),
    ],
)
def test_policies_of_cluster_administrators(administrators: Lab, policy: dict[str, Any], says: str) -> None:
    done = create(administrators, policy)
    assert (done.returncode == 0) == (not says), done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("policy", examples())
def test_upstream_example(server: Lab, policy: dict[str, Any]) -> None:
    namespace = policy["metadata"].get("namespace")
    if namespace and not server.get("namespace", namespace, check=False):
        server.kubectl("create", "namespace", namespace)
    done = create(server, policy)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_kind_is_served_under_every_name(server: Lab, kind: Kind) -> None:
    for name in (kind.plural, *kind.short_names):
        done = server.kubectl("get", name, "--all-namespaces", check=False)
        assert done.returncode == 0, done.stderr


def test_definition_is_written_as_it_was_sent(server: Lab) -> None:
    """What the server does not understand in a schema it drops, and says nothing."""
    for text in rendered().values():
        sent = yaml.safe_load(text)
        (held,) = server.get(f"crd/{sent['metadata']['name']}")
        assert held["spec"]["versions"] == sent["spec"]["versions"]
        conditions = {condition["type"]: condition["status"] for condition in held["status"]["conditions"]}
        assert "NonStructuralSchema" not in conditions


def test_columns_and_status_of_a_policy(server: Lab) -> None:
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "columns", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingress": [{"icmps": [{"fields": [{"type": 8}]}]}]},
    }  # fmt: skip
    assert create(server, policy, dry=False).returncode == 0
    condition = {"type": "Valid", "status": "True", "reason": "ok", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"status": {"enforced": "2/2", "selected": 3, "mode": "audit", "conditions": [condition]}}
    patch = ["--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"]
    server.kubectl("patch", "cnp", "columns", *patch)
    header, row = server.kubectl("get", "cnp", "columns").stdout.splitlines()
    assert header.split() == ["NAME", "AGE", "VALID", "SELECTED", "ENFORCED", "MODE"]
    assert row.split()[2:] == ["True", "3", "2/2", "audit"]
    (held,) = server.get("cnp", "columns")
    assert held["metadata"]["generation"] == 1
    assert held["spec"]["ingress"][0]["icmps"][0]["fields"][0] == {"type": 8, "family": "IPv4"}


def test_absent_and_empty_lists_stay_apart(server: Lab) -> None:
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "empty", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingress": [], "egress": [{"toEndpoints": []}, {"toPorts": [{}]}, {}]},
    }  # fmt: skip
    assert create(server, policy, dry=False).returncode == 0
    (held,) = server.get("cnp", "empty")
    assert held["spec"] == policy["spec"]


def test_unknown_fields_of_shared_kinds_are_kept(server: Lab) -> None:
    spec = {"addresses": [{"type": "InternalIP", "ip": "10.0.0.1", "zone": "a"}], "eni": {"vpc-id": "x"}}
    node = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "n1"}, "spec": spec}
    assert create(server, node, dry=False).returncode == 0
    (held,) = server.get("cn", "n1")
    assert held["spec"] == spec
    status = {"id": 7, "state": "ready", "networking": {"addressing": [{"ipv4": "10.0.0.2"}]}, "future": {"a": 1}}
    endpoint = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": {"name": "web", "namespace": "default"},
        "status": status,
    }  # fmt: skip
    assert create(server, endpoint, dry=False).returncode == 0
    (held,) = server.get("cep", "web", "--namespace=default")
    assert held["status"] == status


def test_a_group_of_prefixes(server: Lab) -> None:
    def group(*prefixes: str) -> dict[str, Any]:
        return {
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup", "metadata": {"name": "offices"},
            "spec": {"externalCIDRs": list(prefixes)},
        }  # fmt: skip

    assert create(server, group("10.0.0.0/8", "fd00::/64")).returncode == 0
    assert create(server, group()).returncode == 0
    refused = create(server, group("10.0.0.0/8", "10.0.0.1"))
    assert "spec.externalCIDRs[1]" in refused.stderr


def claim(name: str, text: str, node: str = "n1") -> dict[str, Any]:
    return {
        "apiVersion": "pilus.io/v1alpha1", "kind": "PilusRangeClaim", "metadata": {"name": name},
        "spec": {"node": node, "range": text},
    }  # fmt: skip


def test_a_range_is_claimed_once_and_for_good(server: Lab) -> None:
    assert create(server, claim("10-44-0-0-24", "10.44.0.0/24"), dry=False).returncode == 0
    assert create(server, claim("fd00-44---64", "fd00:44::/64"), dry=False).returncode == 0
    assert "AlreadyExists" in create(server, claim("10-44-0-0-24", "10.44.0.0/24", "n2"), dry=False).stderr
    assert "so that a range is claimed once" in create(server, claim("mine", "10.44.0.0/24")).stderr
    assert "shortest form" in create(server, claim("10-44-0-1-24", "10.44.0.1/24")).stderr
    moved = server.kubectl("patch", "prc", "10-44-0-0-24", "--type=merge", '--patch={"spec": {"node": "n2"}}', check=False)
    assert "a claim does not change" in moved.stderr


def test_node_status_is_written_at_once(server: Lab) -> None:
    policies = [{"uid": "u", "generation": 3, "realised": False, "error": "too large", "unenforced": ["spec.nodeSelector"]}]
    status = {"policies": policies, "agent": {"version": "0.1.0", "ready": True}}
    held = {"apiVersion": "pilus.io/v1alpha1", "kind": "PilusNodeStatus", "metadata": {"name": "n1"}, "status": status}
    assert create(server, held, dry=False).returncode == 0
    (found,) = server.get("pns", "n1")
    assert found["status"] == status
