"""`pilus policy check`: what is wrong with policies in files, and where."""

import io
import json
import sys
from pathlib import Path

import pytest
from tests.unit.parses import watched

from pilus_cli.check import Checked, check
from pilus_cli.main import main

GOOD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
"""


def found(*texts: str) -> Checked:
    return check((f"{number}.yaml", text) for number, text in enumerate(texts))


def lines(checked: Checked) -> list[str]:
    return [str(finding) for finding in checked.findings]


def test_a_good_policy_has_nothing_to_say() -> None:
    checked = found(GOOD)
    assert (checked.findings, checked.policies, checked.failed) == ([], 1, False)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('port: "80"', 'port: "70000"', "0.yaml:9:16: error: WEB: spec.ingress[0].toPorts[0].ports[0].port: "),
        ("fromEndpoints: [{matchLabels", "fromEndpoint: [{matchLabels", "0.yaml:7:5: error: WEB: spec.ingress[0].fromEndpoint: "),
        ("  endpointSelector: {matchLabels: {app: web}}\n", "", "0.yaml:4:1: error: WEB: spec: "),
        (
            "    toPorts:", "    fromNodes: []\n    toPorts:",
            "0.yaml:7:5: error: WEB: spec.ingress[0]: ",
        ),
        (
            "TCP}]", "TCP}]\n      rules: {http: [{}]}",
            "0.yaml:10:15: warning: WEB: spec.ingress[0].toPorts[0].rules.http: is not in force yet",
        ),
        ("  ingress:", "  ingress: []\n  ingress:", "0.yaml:7:3: error: the key 'ingress' is given twice"),
        ("spec:", "spec: [", "0.yaml:6:3: error: "),
        (
            "namespace: shop}", "namespace: shop, annotations: {pilus.io/mode: adit}}",
            "0.yaml:3:54: warning: WEB: metadata.annotations.pilus.io/mode: annotation pilus.io/mode is 'adit'",
        ),
        (
            "namespace: shop}", 'namespace: shop, annotations: {pilus.io/cut-lifelines: "ssh ectd"}}',
            "0.yaml:3:54: warning: WEB: metadata.annotations.pilus.io/cut-lifelines: "
            "annotation pilus.io/cut-lifelines names 'ectd', which is no lifeline",
        ),
        (
            "namespace: shop}", "namespace: shop, annotations: {pilus.io/mod: audit}}",
            "0.yaml:3:54: warning: WEB: metadata.annotations.pilus.io/mod: says nothing: there are pilus.io/cut-lifelines and",
        ),
        (
            "{app: web}", "{'k8s:io.kubernetes.pod.namespace': bank}",
            "0.yaml:5:36: warning: WEB: spec.endpointSelector.matchLabels.k8s:io.kubernetes.pod.namespace: "
            "is overridden: the policy governs pods of its own namespace, shop",
        ),
        (
            'port: "80"', 'port: "80", endPort: 79',
            "0.yaml:9:28: warning: WEB: spec.ingress[0].toPorts[0].ports[0].endPort: is below port 80: that one port is meant",
        ),
        (
            "cilium.io/v2", "cilium.io/v3",
            "0.yaml:1:1: error: WEB: apiVersion: CiliumNetworkPolicy is cilium.io/v2, and not 'cilium.io/v3'",
        ),
        ("apiVersion: cilium.io/v2", "# none", "0.yaml:2:1: error: WEB: apiVersion: CiliumNetworkPolicy is cilium.io/v2, and none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_column_and_field(old: str, new: str, said: str) -> None:
    assert old in GOOD
    (line, *_) = lines(found(GOOD.replace(old, new)))
    assert line.startswith(said.replace("WEB", "CiliumNetworkPolicy shop/web")), line


@pytest.mark.parametrize(
    ("kind", "version", "path", "said"),
    [
        (
            "CiliumNetworkpolicy",
            "cilium.io/v2",
            "kind",
            "cilium.io has no kind 'CiliumNetworkpolicy' here; the nearest is",
        ),
        ("CiliumEgressGatewayPolicy", "cilium.io/v2", "kind", "cilium.io has no kind 'CiliumEgressGatewayPolicy' here"),
        ("NetworkPolicies", "networking.k8s.io/v1", "kind", "the nearest is NetworkPolicy, networking.k8s.io/v1"),
        (
            "AdminPolicy",
            "policy.networking.k8s.io/v1alpha1",
            "kind",
            "the nearest is AdminNetworkPolicy, policy.networking",
        ),
        ("NetworkPolicy", "projectcalico.org/v3", "apiVersion", "NetworkPolicy is networking.k8s.io/v1, and not"),
        ("NetworkPolicy", "networking.k8s.io", "apiVersion", "NetworkPolicy is networking.k8s.io/v1, and not"),
        ("CiliumCIDRGroup", "cilium.io/v2", "apiVersion", "CiliumCIDRGroup is cilium.io/v2alpha1, and not"),
        ("Ingress", "networking.k8s.io/v1", "", ""),
        ("CiliumNode", "cilium.io/v2", "", ""),
        ("ConfigMap", "v1", "", ""),
        ("Ciliumnetworkpolicy", "example.org/v1", "", ""),
    ],
)
def test_what_no_api_server_takes_is_refused_beside_what_is_good(kind: str, version: str, path: str, said: str) -> None:
    """Not passed over: nothing of it would be in force."""
    other = f"---\nkind: {kind}\napiVersion: {version}\nmetadata: {{name: x}}\n"
    checked = found(GOOD + other)
    assert checked.policies == 1
    assert [finding.path for finding in checked.findings] == ([path] if path else [])
    assert checked.failed == bool(path)
    for finding in checked.findings:
        assert said in finding.message
        assert (finding.line, finding.column) == (11 if path == "kind" else 12, 1)


def listed(text: str) -> str:
    """As an item of a list."""
    return "- " + text.rstrip().replace("\n", "\n  ") + "\n"


def test_a_list_without_a_list_s_kind_is_no_object() -> None:
    """kubectl refuses such a document, so nothing of it would be in force, be it good or bad."""
    foreign = "- kind: Pod\n  apiVersion: v1\n- kind: Ingress\n  apiVersion: networking.k8s.io/v1\n- 3\n- hosts: [a]\n"
    checked = found(f"# a file\n{foreign}{listed(GOOD)}- - kind: CiliumNetworkpolicy\n    apiVersion: cilium.io/v2\n", GOOD)
    assert (checked.failed, checked.policies) == (True, 1)
    assert [(one.line, one.column, one.object) for one in checked.findings] == [
        (8, 3, "CiliumNetworkPolicy shop/web"),
        (17, 5, "CiliumNetworkpolicy"),
    ]
    assert "stands in a list, which is no object" in checked.findings[0].message
    assert found(foreign, GOOD).findings == []


def test_a_list_in_a_list_is_looked_into() -> None:
    bad = listed("kind: List\nitems:\n" + listed(GOOD.replace('"80"', '"70000"')))
    checked = found("kind: List\nitems:\n" + bad)
    assert checked.policies == 1
    assert [(one.line, one.path) for one in checked.findings] == [(13, "spec.ingress[0].toPorts[0].ports[0].port")]


GROUP = """\
apiVersion: cilium.io/v2alpha1
kind: CiliumCIDRGroup
metadata: {name: web}
spec: {externalCIDRs: [192.0.2.0/24]}
"""
KUBERNETES = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}}
"""


OF_EACH_SORT = pytest.mark.parametrize("text", [GOOD, GROUP, KUBERNETES], ids=["cilium", "group", "kubernetes"])


@OF_EACH_SORT
@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("name: Bad_Name", "3:12 metadata.name 'Bad_Name' is no name"),
        ("name: A_b", "3:12 metadata.name 'A_b' is no name"),
        ("name: a..b", "3:12 metadata.name 'a..b' is no name"),
        ("name: a-.b", "3:12 metadata.name 'a-.b' is no name"),
        ("name: ''", "3:12 metadata.name '' is no name"),
        (f"name: {'a' * 254}", "3:12 metadata.name 'aaa"),
        (f"name: {'a' * 253}", ""),
        ("name: 0.a-b.c", ""),
        ("name: a, namespace: a.b", "3:21 metadata.namespace 'a.b' is no namespace"),
        ("name: a, namespace: Shop", "3:21 metadata.namespace 'Shop' is no namespace"),
        (f"name: a, namespace: {'a' * 64}", "3:21 metadata.namespace 'aaa"),
        (f"name: a, namespace: {'a' * 63}", ""),
        ("name: a, labels: {a b: c}", "3:21 metadata.labels.a b 'a b' is no label's key"),
        ("name: a, labels: {'k8s:app': c}", "3:30 metadata.labels.k8s:app 'k8s:app' is no label's key"),
        ("name: a, labels: {/a: c}", "3:30 metadata.labels./a '/a' is no label's key"),
        ("name: a, labels: {a/b/c: c}", "3:30 metadata.labels.a/b/c 'a/b/c' is no label's key"),
        ("name: a, labels: {A.example/b: c}", "3:30 metadata.labels.A.example/b 'A.example/b' is no label's key"),
        ("name: a, labels: {a: b c}", "3:30 metadata.labels.a 'b c' is no label's value"),
        (f"name: a, labels: {{a: {'b' * 64}}}", "3:30 metadata.labels.a 'bbb"),
        ("name: a, labels: {example.org/A_b: '', a.b: B.c}", ""),
        ("name: a, annotations: {a b: c}", "3:21 metadata.annotations.a b 'a b' is no annotation's key"),
        ("name: a, annotations: {Example.ORG/a: 'any thing'}", ""),
        ("name: a, label: {a: b}", "3:21 metadata.label unknown field 'label': is labels meant?"),
        ("name: a, annotation: ", "3:21 metadata.annotation unknown field 'annotation': is annotations meant?"),
        ("name: a, zone: b", "3:21 metadata.zone unknown field 'zone'"),
        ("name: a, generation: 1, creationTimestamp: , finalizers: [], resourceVersion: '1', uid: u, managedFields: []", ""),
        ("name: a, labels: {a: }", "3:30 metadata.labels.a is null and no text"),
        ("name: a, annotations: {a: }", "3:35 metadata.annotations.a is null and no text"),
    ],
)  # fmt: skip
def test_metadata_is_as_the_api_server_wants_it(text: str, metadata: str, said: str) -> None:
    """An agent does not look at it: its objects come from an API server, or are its own administrator's."""
    checked = found(text.replace("name: web", metadata).replace(", namespace: shop", ""))
    told = [f"{one.line}:{one.column} {one.path} {one.message}" for one in checked.findings]
    assert [line.startswith(said) for line in told] == ([True] if said else []), told
    assert checked.failed == (bool(said) and "is null" not in said and "unknown field" not in said)


def test_annotations_have_an_end() -> None:
    (line,) = lines(found(GROUP.replace("name: web", f"name: web, annotations: {{a: {'b' * (1 << 18)}}}")))
    assert line == "0.yaml:3:23: error: CiliumCIDRGroup web: metadata.annotations: more than 262144 bytes"


@OF_EACH_SORT
def test_an_unknown_field_beside_spec_is_an_error(text: str) -> None:
    """kubectl refuses it, and without kubectl it is dropped: of a mistyped `spec` a NetworkPolicy would govern a namespace."""
    assert found(text + "status: {}\n").findings == []
    assert "unknown field 'sepc': is spec meant?" in [one.message for one in found(text.replace("spec:", "sepc:")).findings]
    checked = found(f"{text}Spec: {{}}\n")
    (line,) = lines(checked)
    assert line.startswith(f"0.yaml:{text.count(chr(10)) + 1}:1: error: ")
    assert line.endswith(": Spec: unknown field 'Spec': is spec meant?")
    specs = found(f"{text}specs: []\n")
    assert specs.failed == (text != GOOD)


def test_of_very_many_some_are_told() -> None:
    """Each costs a look at its whole map."""
    many = ", ".join(f"a_/{i}: " for i in range(3000))
    checked = found(GROUP.replace("name: web", f"name: web, labels: {{{many}}}"))
    assert checked.failed
    assert len(checked.findings) == 40


def test_our_own_names_of_fields_are_unknown() -> None:
    for policy in (KUBERNETES.replace("podSelector", "pod_selector"), GOOD.replace("fromEndpoints", "from_endpoints")):
        assert found(policy).failed


def test_a_null_in_a_selector_is_told() -> None:
    """With its key gone, the selector would be of everybody."""
    null = KUBERNETES.replace("{podSelector: {}}", "{podSelector: {matchLabels: {team: }}}")
    (line,) = lines(found(null))
    assert line.startswith("0.yaml:4:36: warning: NetworkPolicy web: spec.podSelector.matchLabels.team: is null and no text")
    (line,) = lines(found(GOOD.replace("{app: client}", "{app: }")))
    path = "spec.ingress[0].fromEndpoints[0].matchLabels.app"
    assert line.startswith(f"0.yaml:7:36: error: CiliumNetworkPolicy shop/web: {path}: Input should be a valid string")
    proto = GOOD.replace("TCP}]", "TCP}]\n      rules: {l7proto: x, l7: [{a: b}, {a: }]}")
    assert "0.yaml:10:41: warning: CiliumNetworkPolicy shop/web: spec.ingress[0].toPorts[0].rules.l7[1].a: is null" in "".join(
        lines(found(proto))
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{policyTypes: [Ingress, Egress, Ingress]}", "4:8: error: NetworkPolicy web: spec.policyTypes: "),
        (
            "{ingress: [{ports: [{port: 70000}]}]}",
            "4:28: error: NetworkPolicy web: spec.ingress[0].ports[0].port: Input should be less than or equal to 65535",
        ),
        (
            "{ingress: [{ports: [{port: '80'}]}]}",
            "4:28: error: NetworkPolicy web: spec.ingress[0].ports[0].port: String should match pattern",
        ),
        (
            "{podSelector: {matchLabels: {'k8s:app': web}}}",
            "4:36: error: NetworkPolicy web: spec.podSelector.matchLabels.k8s:app: 'k8s:app' is no label's key",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            "4:27: error: NetworkPolicy web: spec.ingress[0].from[0].ipBlock: each except must lie inside cidr, and be a part",
        ),
    ],
)
def test_what_kubernetes_refuses_of_its_own_kind(spec: str, said: str) -> None:
    (line,) = lines(found(KUBERNETES.replace("{podSelector: {}}", spec)))
    assert line.startswith(f"0.yaml:{said}"), line


def test_warnings_fail_nothing_and_a_range_is_inside_out_in_any_section() -> None:
    policy = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: all}
specs:
- endpointSelector: {matchLabels: {'k8s:io.kubernetes.pod.namespace': bank}}
  egressDeny:
  - toEntities: [world]
    toPorts: [{ports: [{port: "1", endPort: 0}, {port: "020", endPort: 15}, {port: http, endPort: 1}, {port: "7", endPort: 7}]}]
"""
    checked = found(policy)
    assert [(one.path, one.message) for one in checked.findings] == [
        ("specs[0].egressDeny[0].toPorts[0].ports[1].endPort", "is below port 16: that one port is meant")
    ]
    assert (checked.policies, checked.failed) == (1, False)


def test_a_namespace_s_mode_is_looked_at() -> None:
    namespace = "kind: Namespace\napiVersion: v1\nmetadata: {name: shop, annotations: {pilus.io/mode: Audit}}\n"
    (line,) = lines(found(namespace))
    assert line.startswith("0.yaml:3:38: warning: Namespace shop: metadata.annotations.pilus.io/mode: annotation")
    for odd in ("{name: shop, annotations: 3}", "3", "{annotations: {pilus.io/mode: audit}}"):
        assert found(f"kind: Namespace\napiVersion: v1\nmetadata: {odd}\n").findings == []


def test_what_stands_in_a_list_is_found_there() -> None:
    """As `kubectl get -o yaml` prints it."""
    item = "- " + GOOD.rstrip().replace("\n", "\n  ") + "\n"
    checked = found("apiVersion: v1\nitems:\n" + item + item.replace("80", "http?") + "kind: List\n")
    assert [(one.line, one.path) for one in checked.findings] == [(20, "spec.ingress[0].toPorts[0].ports[0].port")]
    assert checked.policies == 2


TEN_MEGABYTES = GOOD + '    - ports: [{port: "81", protocol: TCP}]\n' * 240_000


def test_a_policy_of_10_mb_is_refused_before_anybody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = watched(monkeypatch)
    assert len(TEN_MEGABYTES) > 10_000_000
    (tmp_path / "large.yaml").write_text(f"{GOOD}---\n{TEN_MEGABYTES}---\n{GOOD}")
    assert run(monkeypatch, "policy", "check", "-f", str(tmp_path)) == 1
    told = capsys.readouterr()
    where = f"{tmp_path}/large.yaml:10:1: error: "
    assert where + f"a document of {len(TEN_MEGABYTES)} characters: no API server holds an object of more than 1572864" in (
        told.out.replace("\n", "")
    )
    assert told.err == "2 policies, 1 errors, 0 warnings\n"
    assert [text.strip() for text in parsed] == [GOOD.strip()] * 2, "those beside it, and nothing of it"


def test_standard_input_has_an_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is cut off must not pass for the whole."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(GOOD + "#" * (16 << 20)))
    assert run(monkeypatch, "policy", "check", "-f", "-") == 1
    assert "standard input has more than 16777216 characters" in capsys.readouterr().err


@pytest.mark.parametrize("nodes", [False, True])
def test_nodes_by_their_labels_are_in_force_where_the_setting_says_so(nodes: bool) -> None:
    held = GOOD.replace("fromEndpoints:", "fromNodes:")
    told = [str(one) for one in check([("0.yaml", held)], nodes=nodes).findings]
    assert [line for line in told if "fromNodes: is not in force yet" in line] == told
    assert bool(told) != nodes


OUT = GOOD.replace("ingress:", "egress:").replace("fromEndpoints: [{matchLabels: {app: client}}]", "PEERS").replace('"80"', "http")


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ("toEndpoints: [{}]", False), ("toEntities: [cluster]", False),
        ("toCIDR: [192.0.2.0/24]", True), ("toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.1/32]}]", True),
        ("toCIDRSet: [{cidrGroupRef: partners}]", True),
        ("toEndpoints: [{matchLabels: {'reserved:world-ipv4': ''}}]", True),
        ("toEndpoints: [{matchExpressions: [{key: 'reserved:kube-apiserver', operator: DoesNotExist}]}]", True),
        ("toEndpoints: [{matchExpressions: [{key: 'reserved:kube-apiserver', operator: Exists}]}]", False),
    ],
)  # fmt: skip
def test_a_named_port_of_an_address_is_told(peers: str, told: bool) -> None:
    where = "0.yaml:7:5: warning: CiliumNetworkPolicy shop/web: spec.egress[0]: an address has no named port http: by addresses it"
    policy = OUT.replace("PEERS", peers)

    def of(policy: str) -> list[str]:
        return [line for line in lines(found(policy)) if "named port" in line]

    assert of(policy) == ([f"{where} allows nothing"] if told else [])
    denied = f"{where} denies every port of its protocol".replace("egress[", "egressDeny[")
    assert of(policy.replace("egress:", "egressDeny:")) == ([denied] if told else [])
    assert of(policy.replace("http", '"80"')) == []
    closing = f"{where} denies every port of its protocol"
    # Of a group it is told where it is allowed or denied: what it closes is not known before its addresses are.
    restricted = of(policy.replace("TCP}]", "TCP}]\n      rules: {http: [{}]}"))
    assert restricted == ([closing] if told and "cidrGroupRef" not in peers else [])


def test_a_requirement_about_api_servers_leaves_the_others_in_force() -> None:
    """No rule speaks of API servers here until the requirement does; then it is of addresses."""
    policy = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: all}
spec:
  endpointSelector: {matchLabels: {"reserved:init": ""}}
  egress:
  - toEndpoints: [{matchExpressions: [{key: "reserved:host", operator: DoesNotExist}]}]
    toPorts: [{ports: [{port: http, protocol: TCP}]}]
  - toRequires: [{matchExpressions: [{key: "reserved:kube-apiserver", operator: DoesNotExist}]}]
"""
    (line,) = lines(found(policy))
    told = "spec.egress[0]: an address has no named port http: by addresses it allows nothing"
    assert line.endswith(f"warning: CiliumClusterwideNetworkPolicy all: {told}")


def test_a_named_port_of_an_ip_block_is_told() -> None:
    block = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: http}]
  egress:
  - to: [{podSelector: {}}, {ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: http}]
"""
    (line,) = lines(found(block))
    assert line.startswith("0.yaml:11:5: warning: NetworkPolicy shop/web: spec.egress[0]: an address has no named port http")


def test_every_document_of_every_file_is_looked_at() -> None:
    bad = GOOD.replace("80", "http?")
    checked = found(f"# two\n---\n{GOOD}---\n{bad}", bad)
    assert [(one.file, one.line) for one in checked.findings] == [("0.yaml", 21), ("1.yaml", 9)]
    assert checked.policies == 3


def test_a_group_may_stand_in_another_file() -> None:
    policy = GOOD.replace("fromEndpoints: [{matchLabels: {app: client}}]", "fromCIDRSet: [{cidrGroupRef: partners}]")
    group = (
        "apiVersion: cilium.io/v2alpha1\nkind: CiliumCIDRGroup\nmetadata: {name: partners}\nspec: {externalCIDRs: [192.0.2.0/24]}\n"
    )
    assert found(policy, group).findings == []
    (line,) = lines(found(policy))
    assert "names the CiliumCIDRGroup" in line
    (line,) = lines(found(policy, group.replace("/24", "/33")))
    assert line.startswith("1.yaml:4:")


@pytest.mark.parametrize(
    "text", ["&a [*a]", "[" * 5000, "a: " + "9" * 5000, "\0", "kind: CiliumNetworkPolicy\nmetadata: 3\n", "- 1\n- kind: [x]\n"]
)
def test_text_that_nobody_means_ends_in_a_finding_or_in_nothing(text: str) -> None:
    checked = found(text)
    assert checked.policies == 0
    assert len(checked.findings) <= 1


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pilus", *arguments])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_exit_status_is_for_pipelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert run(monkeypatch, "policy", "check", "-f", str(tmp_path)) == 0
    assert capsys.readouterr().err == "1 policies, 0 errors, 0 warnings\n"
    (tmp_path / "bad.yaml").write_text(GOOD.replace("80", "no port"))
    assert run(monkeypatch, "-o", "json", "policy", "check", "-f", str(tmp_path)) == 1
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["file"], one["line"], one["severity"]) == (str(tmp_path / "bad.yaml"), 9, "error")
    (tmp_path / "none.yaml").write_text("kind: ConfigMap\n")
    assert run(monkeypatch, "policy", "check", "-f", str(tmp_path / "none.yaml")) == 1, (
        "a pipeline that checks nothing must not pass"
    )
    assert run(monkeypatch, "policy", "check", "-f", str(tmp_path / "missing.yaml")) == 1
