"""What a pod, or who may write it, says of itself."""

import json
from collections.abc import Iterator

import pytest
from e2e.scenarios.hostile.world import (
    VICTIMS,
    World,
    manifest,
    pilus,
    policy,
)

from pilus_lab import wait_for
from pilus_lab.probe import Probe

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CLUSTER = "io.cilium.k8s.policy.cluster"
ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
TEAM = "io.cilium.k8s.namespace.labels.team"
FORGERIES = {
    CLUSTER: "other", ACCOUNT: "admin", TEAM: "trusted", "io.kubernetes.pod.namespace": "trusted", "io.cilium.k8s": "x",
    "reserved.host": "", "reserved": "host", "k8s.io.cilium.k8s.policy.cluster": "other",
}  # fmt: skip
HOSTILE_LABELS = (
    FORGERIES | {f"many-{n}": "v" * 63 for n in range(150)} | {"p" * 63: "", f"{'d' * 60}.example/{'n' * 63}": "v" * 63}
)
ANNOTATIONS = {
    "pilus.io/network-namespace": "/proc/1/ns/net",
    "cilium.io/identity": "1",
    "io.cilium.network.ipv4-pod-ip": "10.44.0.1",
    "ends": "\x1b]0;owned\x07\x1b[2J\x00".replace("\x00", "") + "\n- {not: yaml",
    "much": "x" * 90_000,
}


@pytest.fixture(scope="module")
def labelled(world: World) -> Iterator[World]:
    lab = world.lab
    lab.kubectl("create", "namespace", "trusted")
    lab.kubectl("label", "namespace", "trusted", "team=trusted")
    lab.kubectl("create", "serviceaccount", "admin", "--namespace=trusted")
    wait_for("its service account", lambda: lab.get("serviceaccount", "default", "--namespace=trusted", check=False), 30)
    friend = manifest("friend", "n2", {"app": "friend"}, namespace="trusted")
    friend["spec"]["serviceAccountName"] = "admin"
    hostile = manifest("hostile", "n2", HOSTILE_LABELS, annotations=ANNOTATIONS)
    lab.apply("\n---\n".join(json.dumps(one) for one in (friend, hostile)))
    lab.kubectl("wait", "--for=condition=Ready", "pod/hostile", "--timeout=60s")
    lab.kubectl("wait", "--namespace=trusted", "--for=condition=Ready", "pod/friend", "--timeout=60s")
    yield world
    lab.kubectl("delete", "pod", "hostile", "--wait=true")
    lab.kubectl("delete", "namespace", "trusted", "--wait=true")


def test_the_api_server_refuses_labels_with_control_characters(world: World) -> None:
    bad = manifest("bad", "n2", {"app": "a\x1b[2Jb"})
    done = world.lab.kubectl("apply", "--filename=-", stdin=json.dumps(bad), check=False)
    assert done.returncode
    assert "valid label" in done.stderr


def test_derived_labels_are_not_taken_from_a_pod(labelled: World) -> None:
    number = labelled.identity("hostile")
    assert number >= 256
    held = labelled.lab.get("ciliumidentities", str(number))[0]["security-labels"]
    assert held[f"k8s:{CLUSTER}"] == "default"
    assert held[f"k8s:{ACCOUNT}"] == "default"
    assert held["k8s:io.kubernetes.pod.namespace"] == "default"
    assert f"k8s:{TEAM}" not in held
    assert "k8s:io.cilium.k8s" not in held
    assert [label for label in held if not label.startswith("k8s:")] == []
    assert held["k8s:many-149"] == "v" * 63
    [endpoint] = [one for one in pilus(labelled.lab, "n2", "endpoint") if one["name"] == "hostile"]
    assert endpoint["identity"] == number
    assert sorted(endpoint["labels"]) == sorted(f"{key}={value}" if value else key for key, value in held.items())


SELECTED = {  # a selector: the pods that it lets in
    "a namespace's label": (f"{{matchLabels: {{'k8s:{TEAM}': trusted}}}}", {"friend"}),
    "a namespace": ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': trusted}}", {"friend"}),
    "a service account": (f"{{matchLabels: {{'k8s:{ACCOUNT}': admin}}}}", {"friend"}),
    "another cluster": (f"{{matchLabels: {{'k8s:{CLUSTER}': other}}}}", set()),
    "another cluster, from any source": (f"{{matchLabels: {{'{CLUSTER}': other}}}}", set()),
    "a namespace's label that exists": (f"{{matchExpressions: [{{key: 'k8s:{TEAM}', operator: Exists}}]}}", {"friend"}),
    "the host": ("{matchLabels: {'reserved:host': ''}}", set()),
    "the host, in other words": ("{matchLabels: {reserved.host: ''}}", set()),
    "a label that it may have": ("{matchLabels: {'k8s:many-7': " + "v" * 63 + "}}", {"hostile"}),
}


@pytest.mark.parametrize("selector", SELECTED)
def test_ghsa_pfhr_pccp_hwmh_a_policy_does_not_believe_what_a_pod_says_of_itself(labelled: World, selector: str) -> None:
    text, expected = SELECTED[selector]
    with policy(labelled, "victim", f"ingress: [{{fromEndpoints: [{text}]}}]"):
        probes = {
            Probe(source, address, 8080): source.partition("/")[2]
            for source in ("trusted/friend", "default/hostile")
            for victim in VICTIMS
            for address in labelled.addresses[victim].values()
        }
        found = labelled.prober.table(probes, limit=2)
    assert {pod for probe, pod in probes.items() if found[probe]} == expected
    for pod in expected:
        assert all(found[probe] for probe, name in probes.items() if name == pod)


def test_cve_2023_39347_labels_of_a_running_pod_gain_it_nothing(labelled: World) -> None:
    """CVE-2023-39347."""
    before = labelled.identity("hostile")
    labelled.lab.kubectl("label", "pod", "hostile", "--overwrite", f"{ACCOUNT}=root", "io.cilium.k8s.policy.new=x", f"{TEAM}=other")
    labelled.lab.kubectl(
        "label", "pod", "hostile", "--overwrite", "seen=yes"
    )  # makes another identity: the others were seen by then
    wait_for("the other identity", lambda: labelled.identity("hostile") != before, 30)
    held = labelled.lab.get("ciliumidentities", str(labelled.identity("hostile")))[0]["security-labels"]
    old = labelled.lab.get("ciliumidentities", str(before))[0]["security-labels"]
    assert held == old | {"k8s:seen": "yes"}


def test_cve_2023_41332_nothing_was_harmed_by_labels_and_annotations(labelled: World) -> None:
    for node in ("n1", "n2"):
        running = labelled.lab.node(node).components()
        assert running["agent"]["status"] is None
        assert running["observer"]["status"] is None
    assert labelled.lab.control.components()["operator"]["status"] is None
    labelled.everything_works()
