"""Example policies mean what their documentation says of them: who reaches whom, and who does not.

Those of upstream are read from the folder that PILUS_EXAMPLES names, and what they mean from `upstream.yaml`; not one is kept here.
A file there that `upstream.yaml` has no questions for must be accepted as it is, and in force as far as it is of layers 3 and 4.
Those of `shapes.yaml` are our own, of each of the same shapes and some more.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.unit.agent.policy.questions import Case, policies_of_case, questions_of, unenforced, wrong_answers

from pilus_agent.sources.documents import Raw, documents
from pilus_api.errors import InvalidError
from pilus_api.policies import drafts_of, is_policy
from pilus_api.policy_kinds import BY_NAME

FOLDER: Final = os.environ.get("PILUS_EXAMPLES", "")
UPSTREAM: Final = yaml.safe_load(Path(__file__).with_name("upstream.yaml").read_text())
SHAPES: Final = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text())

# Upstream's files in which there is no policy, and what is there.
NO_POLICIES: Final = {
    "kubernetes/namespace/demo-pods.yaml": "namespaces and pods for the policies beside it",
    "kubernetes/serviceaccount/demo-pods.yaml": "accounts and pods for the policy beside it",
}

# Fields that are not in force because they are of other layers, or because only a cloud knows who is meant, who is nobody here.
_OTHER_LAYERS: Final = re.compile(r"\.(rules\.\w+|toFQDNs|domainNames|\w+TLS|serverNames|listener|authentication)$")
_OF_A_CLOUD: Final = re.compile(r"\.(from|to)Groups$")


def files(*, known: bool) -> list[Any]:
    """The files of the folder: those that a table speaks of, or all others."""

    def none(reason: str) -> list[Any]:
        return [pytest.param("", marks=pytest.mark.skip(reason=reason), id="none")]

    if not FOLDER:
        return none("PILUS_EXAMPLES names no folder of upstream policies")
    found = sorted(path for path in Path(FOLDER).rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
    assert found, f"there is no example in {FOLDER}"
    names = [path.relative_to(FOLDER).as_posix() for path in found]
    tables = UPSTREAM.keys() | NO_POLICIES.keys()
    wanted = [name for name in names if (name in tables) == known]
    return wanted or none(f"upstream.yaml speaks of {'no' if known else 'every'} file in {FOLDER}")


def objects_of(name: str) -> list[Raw]:
    """As the agent reads a file."""
    path = Path(FOLDER) / name
    held = list(documents(path, path.read_text()))
    found = [each for each in held if each is not None]
    assert len(found) == len(held), f"{name} has a document that can't be read"
    return found


def cases_of(given: list[dict[str, Any]]) -> list[Case]:
    tuples = ("unenforced", "beside")
    return [Case(**each | {key: tuple(each.get(key, ())) for key in tuples}) for each in given]


def verify(name: str, objects: Sequence[Raw], case: Case) -> None:
    policies = policies_of_case(objects, case)
    assert unenforced(policies) == case.unenforced, name
    wrong = wrong_answers(policies, case)
    if wrong:
        pytest.fail(f"{name} means something else:\n" + "\n".join(wrong), pytrace=False)


def asks_both(cases: Sequence[Case]) -> bool:
    """Else an engine that lets everything pass, or nothing, would do."""
    return {question.passes for case in cases for question in questions_of(case.questions)} == {True, False}


def unasked(objects: Sequence[Raw]) -> tuple[bool, list[str]]:
    """Of a file that nobody has written questions for: whether it is a case, and what is not asked of it.

    A file is one if any rule in it is of layers 3 and 4 alone. Whatever it is, what it says of these is in force: else this fails.
    Raises InvalidError.
    """
    policies = [held for held in objects if held.get("kind") in BY_NAME]  # of whatever version: another one is refused
    if not policies:
        kinds = sorted({str(each.get("kind")) for each in objects})
        return False, [f"there is no policy of layers 3 and 4 in it, but {', '.join(kinds) or 'nothing'}"]
    # In a cluster where nodes have identities by their labels.
    specs = [spec for held in policies for spec in drafts_of(held, cluster="default", nodes=True)]
    missing = unenforced(specs)
    wrong = [field for field in missing if not (_OTHER_LAYERS.search(field) or _OF_A_CLOUD.search(field))]
    if wrong:
        pytest.fail(f"not in force: {', '.join(wrong)}", pytrace=False)
    rules = [rule.unenforced for spec in specs for rule in spec.rules]
    is_case = not all(any(map(_OTHER_LAYERS.search, fields)) for fields in rules) or not all(spec.rules for spec in specs)
    return is_case, [f"{field} is not in force yet" for field in missing]


@pytest.mark.parametrize("name", files(known=True))
def test_an_upstream_example_means_what_it_documents(name: str) -> None:
    policies = [held for held in objects_of(name) if is_policy(held)]
    if name in NO_POLICIES:
        assert not policies, f"{name} is said to have {NO_POLICIES[name]}, and has a policy"
        return
    assert policies, f"{name} has no policy"
    cases = cases_of(UPSTREAM[name])
    assert asks_both(cases)
    for case in cases:
        beside = [held for other in case.beside for held in objects_of(other)]
        verify(name, policies + beside, case)


@pytest.mark.parametrize("name", files(known=False))
def test_an_upstream_example_that_nobody_has_read_is_accepted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if (Path(FOLDER) / name).read_text().lstrip().startswith("["):
        pytest.skip(f"{name} is no case: it is a list of rules, as another command takes them, and no object of Kubernetes")
    try:
        is_case, why = unasked(objects_of(name))
    except InvalidError as error:
        pytest.fail(f"{name} is refused: {error}", pytrace=False)
    if not is_case:
        pytest.skip(f"{name} is no case: {'; '.join(why)}")
    with capsys.disabled():
        print(f"\n{name}: {'; '.join(['accepted; who reaches whom is not asked, for upstream.yaml does not say', *why])}")


def unread(rule: str, version: str = "cilium.io/v2") -> Raw:
    spec = yaml.safe_load(f"{{endpointSelector: {{}}, {rule}}}")
    return {"apiVersion": version, "kind": "CiliumNetworkPolicy", "metadata": {"name": "unread"}, "spec": spec}


PORT: Final = "ports: [{port: '80', protocol: TCP}]"
OF_LAYER_4: Final = unread(f"ingress: [{{toPorts: [{{{PORT}}}]}}]")
OF_LAYER_7: Final = unread(f"ingress: [{{toPorts: [{{{PORT}, rules: {{http: [{{}}]}}}}]}}]")
NO_HTTP: Final = "spec.ingress[0].toPorts[0].rules.http is not in force yet"


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([OF_LAYER_4], (True, [])),
        ([OF_LAYER_7], (False, [NO_HTTP])),
        ([OF_LAYER_7, OF_LAYER_4], (True, [NO_HTTP])),
        ([unread("egress: [{toFQDNs: [{matchName: a.example}]}]")], (False, ["spec.egress[0].toFQDNs is not in force yet"])),
        ([unread("ingress: [{}], egress: [{toFQDNs: [{matchName: a.example}]}]")],
         (True, ["spec.egress[0].toFQDNs is not in force yet"])),
        ([unread("ingressDeny: [{}]")], (True, [])),
        ([unread("egress: [{toGroups: [{aws: {region: r}}]}]")], (True, ["spec.egress[0].toGroups is not in force yet"])),
        ([unread("ingress: [{fromNodes: [{}]}]")], (True, [])),
        ([{"kind": "Pod"}], (False, ["there is no policy of layers 3 and 4 in it, but Pod"])),
    ],
)  # fmt: skip
def test_what_is_asked_of_a_file_that_nobody_has_read(objects: list[Raw], expected: tuple[bool, list[str]]) -> None:
    assert unasked(objects) == expected


@pytest.mark.parametrize("wrong", [unread("ingress: [{fromCIDR: [10.0.0.0/33]}]"), unread("ingress: [{}]", "cilium.io/v9")])
def test_a_file_that_nobody_has_read_may_be_wrong(wrong: Raw) -> None:
    """Then it fails, whatever is beside it."""
    with pytest.raises(InvalidError):
        unasked([OF_LAYER_4, wrong])


@pytest.mark.parametrize("shape", SHAPES, ids=[shape["name"] for shape in SHAPES])
def test_a_policy_of_our_own_means_what_it_says(shape: dict[str, Any]) -> None:
    cases = cases_of(shape["cases"])
    assert asks_both(cases)
    assert all(is_policy(held) for held in shape["policies"])
    for case in cases:
        verify(shape["name"], shape["policies"], case)
