"""`pilus policy check`: what is wrong with policies in files, and where."""

import json
import sys
from pathlib import Path

import pytest

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
            "0.yaml:3:40: warning: WEB: metadata.annotations.pilus.io/mode: annotation pilus.io/mode is 'adit'",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_column_and_field(old: str, new: str, said: str) -> None:
    assert old in GOOD
    (line, *_) = lines(found(GOOD.replace(old, new)))
    assert line.startswith(said.replace("WEB", "CiliumNetworkPolicy shop/web")), line


@pytest.mark.parametrize("nodes", [False, True])
def test_nodes_by_their_labels_are_in_force_where_the_setting_says_so(nodes: bool) -> None:
    held = GOOD.replace("fromEndpoints:", "fromNodes:")
    told = [str(one) for one in check([("0.yaml", held)], nodes=nodes).findings]
    assert [line for line in told if "fromNodes: is not in force yet" in line] == told
    assert bool(told) != nodes


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
