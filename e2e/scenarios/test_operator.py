"""The operator against a real API server: identities, ranges, slices, conditions, and one active operator of two."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pilus_lab import Lab, components

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PODS = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: default}\n"
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec: {endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A control plane with our resources and rights; nodes are objects alone, and nothing but the operator acts on them."""
    settings = {"identity-gc-interval": "1s", "identity-heartbeat-timeout": "3s"}
    with Lab("optest", nodes=0, cni="pilus", settings=settings, without=("operator", "agent", "observer")) as made:
        made.apply(PODS)
        made.start_operator("operator-1")
        made.wait("the operator is active", lambda: holder(made), 20)
        yield made


def holder(lab: Lab) -> str:
    found = lab.get("lease", "pilus-operator", "--namespace=kube-system", check=False)
    return str(found[0]["spec"].get("holderIdentity") or "") if found else ""


def pod(lab: Lab, name: str, labels: dict[str, str], **spec: object) -> None:
    """A pod that nobody will start."""
    containers = [{"name": "c", "image": "lab.local/pause:1"}]
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": containers, **spec},
    }
    lab.apply(json.dumps(made))


def identities(lab: Lab, **labels: str) -> list[int]:
    """The numbers whose label set has these labels of pods."""
    wanted = {f"k8s:{key}": value for key, value in labels.items()}
    held = lab.get("ciliumidentities")
    return sorted(int(item["metadata"]["name"]) for item in held if wanted.items() <= item["security-labels"].items())


def node(lab: Lab, name: str, address: str) -> None:
    lab.apply(json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
    status = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
    lab.kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")


def ranges(lab: Lab, name: str) -> list[str]:
    found = lab.get("ciliumnode", name, check=False)
    return list(found[0]["spec"].get("ipam", {}).get("podCIDRs", [])) if found else []


def endpoint(lab: Lab, name: str, owned: bool = True, **status: object) -> None:
    """As an agent writes it: owned by its pod."""
    metadata: dict[str, Any] = {"name": name}
    if owned:
        uid = lab.get("pod", name)[0]["metadata"]["uid"]
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]
    lab.apply(json.dumps({"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": metadata, "status": status}))


def entries(lab: Lab) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for held in lab.get("ciliumendpointslices") for entry in held["endpoints"]}


def test_equal_labels_are_one_identity_before_anything_is_scheduled(lab: Lab) -> None:
    for number in range(3):
        pod(lab, f"id-{number}", {"app": "id", "half": str(number // 2)})
    pod(lab, "id-host", {"app": "id-host"}, hostNetwork=True)
    lab.wait("two identities", lambda: len(identities(lab, app="id")) == 2, 10)
    (first,) = identities(lab, app="id", half="0")
    (held,) = lab.get("ciliumidentities", str(first))
    assert 256 <= first <= 65535
    assert held["metadata"]["labels"] == {"io.kubernetes.pod.namespace": "default"}
    assert held["security-labels"]["k8s:io.cilium.k8s.policy.serviceaccount"] == "default"
    assert identities(lab, app="id-host") == []


def test_a_label_that_changes_changes_the_identity(lab: Lab) -> None:
    pod(lab, "change", {"app": "before"})
    lab.wait("an identity", lambda: identities(lab, app="before"), 10)
    lab.kubectl("label", "pod", "change", "app=after", "--overwrite")
    lab.wait("another", lambda: identities(lab, app="after"), 10)
    lab.kubectl("label", "namespace", "default", "team=blue")
    team = {"io.cilium.k8s.namespace.labels.team": "blue", "app": "after"}
    lab.wait("that of the namespace's new label", lambda: identities(lab, **team), 10)


def test_an_identity_that_nobody_needs_goes_and_its_number_rests(lab: Lab) -> None:
    pod(lab, "collected", {"app": "collected"})
    lab.wait("an identity", lambda: identities(lab, app="collected"), 10)
    (first,) = identities(lab, app="collected")
    endpoint(lab, "collected", identity={"id": first})
    pod(lab, "uncarried", {"app": "uncarried"})
    lab.wait("another identity", lambda: identities(lab, app="uncarried"), 10)
    lab.kubectl("delete", "pod", "collected", "uncarried", "--force")
    lab.wait("what nobody carries is collected", lambda: not identities(lab, app="uncarried"), 20)
    assert identities(lab, app="collected") == [first], "an endpoint still carries it"
    lab.kubectl("delete", "ciliumendpoint", "collected")
    lab.wait("it is collected", lambda: not identities(lab, app="collected"), 20)
    pod(lab, "collected", {"app": "collected"})
    lab.wait("another", lambda: identities(lab, app="collected"), 10)
    assert identities(lab, app="collected") != [first]


def test_nodes_have_ranges_of_their_own_and_each_is_claimed(lab: Lab) -> None:
    for number in range(1, 5):
        node(lab, f"r{number}", f"192.0.2.{number}")
    names = [f"r{number}" for number in range(1, 5)]
    lab.wait("four nodes with two ranges", lambda: all(len(ranges(lab, name)) == 2 for name in names), 20)
    written = {text: name for name in names for text in ranges(lab, name)}
    assert len(written) == 8
    claims = {claim["spec"]["range"]: claim["spec"]["node"] for claim in lab.get("pilusrangeclaims")}
    assert written.items() <= claims.items()

    lab.kubectl("delete", "node", "r4")
    lab.wait("its ranges are released", lambda: "r4" not in {c["spec"]["node"] for c in lab.get("pilusrangeclaims")}, 60)
    assert not lab.get("ciliumnode", "r4", check=False)


def test_a_slice_says_what_the_operator_knows_and_not_what_an_agent_claims(lab: Lab) -> None:
    node(lab, "s1", "192.0.2.101")
    node(lab, "s2", "192.0.2.102")
    lab.wait("ranges", lambda: len(ranges(lab, "s1")) == 2 and len(ranges(lab, "s2")) == 2, 20)
    own, other = (ranges(lab, name)[0].replace(".0/24", ".5") for name in ("s1", "s2"))
    pod(lab, "honest", {"app": "slices"}, nodeName="s1")
    pod(lab, "thief", {"app": "slices"}, nodeName="s1")
    lab.wait("an identity", lambda: identities(lab, app="slices"), 10)
    endpoint(lab, "honest", identity={"id": 1}, networking={"addressing": [{"ipv4": own}], "node": "198.51.100.1"})
    pod(lab, "nobodys", {"app": "slices"}, nodeName="s1")
    endpoint(lab, "nobodys", owned=False, identity={"id": 1}, networking={"addressing": [{"ipv4": own.replace(".5", ".6")}]})
    endpoint(lab, "thief", identity={"id": 1}, networking={"addressing": [{"ipv4": other}], "node": "192.0.2.102"})
    lab.wait("an entry", lambda: "honest" in entries(lab), 10)
    found = entries(lab)
    assert found["honest"]["id"] == identities(lab, app="slices")[0]
    assert found["honest"]["networking"] == {"addressing": [{"ipv4": own}], "node": "192.0.2.101"}
    assert "thief" not in found
    assert "nobodys" not in found, "whoever holds an agent's token speaks for every pod"
    lab.kubectl("delete", "ciliumendpoint", "honest")
    lab.wait("the entry is gone", lambda: "honest" not in entries(lab), 10)


def test_a_policy_says_that_it_is_valid_and_on_how_many_nodes_it_is_enforced(lab: Lab) -> None:
    node(lab, "e1", "192.0.2.201")
    lab.apply(POLICY)

    def status() -> dict[str, Any]:
        return dict(lab.get("cnp", "web")[0].get("status", {}))

    lab.wait("a condition", lambda: status().get("conditions"), 15)
    assert [(held["type"], held["status"]) for held in status()["conditions"]] == [("Valid", "True")]
    metadata = lab.get("cnp", "web")[0]["metadata"]
    assert set(metadata.get("annotations", {})) <= {"kubectl.kubernetes.io/last-applied-configuration"}
    assert "finalizers" not in metadata
    said = [{"uid": metadata["uid"], "generation": metadata["generation"], "realised": True}]
    lab.apply(json.dumps({"apiVersion": "pilus.io/v1alpha1", "kind": "PilusNodeStatus", "metadata": {"name": "e1"},
                          "status": {"policies": said}}))  # fmt: skip
    lab.wait("enforced on one", lambda: status().get("enforced", "").startswith("1/"), 10)
    lab.kubectl("patch", "cnp", "web", "--type=merge", '--patch={"spec": {"egress": [{}]}}')
    lab.wait("the new generation on none", lambda: status().get("enforced", "").startswith("0/"), 10)


def test_an_api_server_that_was_away_is_found_again(lab: Lab) -> None:
    active = holder(lab)
    pod(lab, "away-1", {"app": "away", "step": "1"})
    lab.wait("an identity", lambda: identities(lab, app="away", step="1"), 10)
    lab.control.stop("apiserver", signal.SIGKILL)
    lab.wait("it is away", lambda: lab.kubectl("get", "--raw", "/readyz", check=False).returncode != 0, 10)
    lab.control.start(components.apiserver(lab.spec))
    lab.wait("the API server", lambda: lab.kubectl("get", "--raw", "/readyz", check=False).returncode == 0, 60)
    pod(lab, "away-2", {"app": "away", "step": "2"})
    lab.wait("an identity", lambda: identities(lab, app="away", step="2"), 30)
    assert len(identities(lab, app="away")) == 2
    lab.wait("the same operator is active", lambda: holder(lab) == active, 20)


@pytest.mark.parametrize(
    ("account", "verb", "what", "may"),
    [
        ("pilus-agent", "create", "ciliumidentities.cilium.io", False),
        ("pilus-agent", "update", "ciliumendpointslices.cilium.io", False),
        ("pilus-agent", "create", "pilusrangeclaims.pilus.io", False),
        ("pilus-agent", "update", "pods", False),
        ("pilus-agent", "get", "secrets", False),
        ("pilus-agent", "create", "ciliumendpoints.cilium.io", True),
        ("pilus-agent", "patch", "ciliumnodes.cilium.io", True),
        ("pilus-agent", "patch", "pilusnodestatuses.pilus.io", True),
        ("pilus-agent", "watch", "endpointslices.discovery.k8s.io", True),
        ("pilus-operator", "create", "ciliumidentities.cilium.io", True),
        ("pilus-operator", "update", "ciliumnetworkpolicies.cilium.io", False),
        ("pilus-operator", "get", "secrets", False),
        ("pilus-operator", "delete", "nodes", False),
    ],
)
def test_each_may_do_what_it_needs_and_no_more(lab: Lab, account: str, verb: str, what: str, may: bool) -> None:
    name = f"system:serviceaccount:kube-system:{account}"
    answer = lab.kubectl("auth", "can-i", verb, what, f"--as={name}", "--all-namespaces", check=False).stdout.strip()
    assert answer == ("yes" if may else "no")


def test_of_two_operators_one_is_active_and_the_other_takes_over(lab: Lab) -> None:
    first = holder(lab)
    lab.start_operator("operator-2")
    lab.wait("the second stands by", lambda: "another operator" in (lab.spec.logs / "operator-2.log").read_text(), 20)
    pod(lab, "takeover-1", {"app": "takeover", "step": "1"})
    lab.wait("the first works", lambda: identities(lab, app="takeover", step="1"), 10)
    assert holder(lab) == first

    lab.control.stop("operator-1", signal.SIGKILL)
    pod(lab, "takeover-2", {"app": "takeover", "step": "2"})
    lab.wait("the second took over", lambda: holder(lab) not in ("", first), 30)
    lab.wait("it works", lambda: identities(lab, app="takeover", step="2"), 15)
    assert len(identities(lab, app="takeover", step="1")) == 1
    assert identities(lab, app="takeover", step="2") > identities(lab, app="takeover", step="1"), "the numbers go on"

    lab.control.stop("operator-2")
    assert lab.control.components()["operator-2"]["status"] == 0
    lab.wait("the Lease is given back", lambda: holder(lab) == "", 5)
    lab.start_operator("operator-3")
    lab.wait("another need not wait", lambda: holder(lab) != "", 6)


def test_a_leader_that_was_paused_stands_back_and_gives_no_range_twice(lab: Lab) -> None:
    paused = lab.wait("an active operator", lambda: holder(lab), 20)
    lab.start_operator("operator-4")
    lab.wait("another stands by", lambda: "another operator" in (lab.spec.logs / "operator-4.log").read_text(), 20)
    lab.control.send("operator-3", signal.SIGSTOP)
    lab.wait("the other took over", lambda: holder(lab) not in ("", paused), 30)
    active = holder(lab)
    # Both see these nodes: the one now, the other in what it finds when it wakes.
    for number in range(1, 6):
        node(lab, f"p{number}", f"198.51.100.{number}")
    lab.control.send("operator-3", signal.SIGCONT)
    names = [f"p{number}" for number in range(1, 6)]
    lab.wait("five nodes with two ranges", lambda: all(len(ranges(lab, name)) == 2 for name in names), 20)
    lab.wait("the paused one stands back", lambda: "standing back" in (lab.spec.logs / "operator-3.log").read_text(), 20)
    assert holder(lab) == active
    written = [text for name in names for text in ranges(lab, name)]
    assert len(set(written)) == 10
    claims = {claim["spec"]["range"]: claim["spec"]["node"] for claim in lab.get("pilusrangeclaims")}
    assert all(claims[text] == name for name in names for text in ranges(lab, name))
