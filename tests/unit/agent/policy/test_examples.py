"""Example policies mean what their documentation says of them: who reaches whom, and who does not.

Those of upstream are read from the folder that PILUS_EXAMPLES names, and what they mean from `upstream.yaml`; not one is kept here.
Those of `shapes.yaml` are our own, of each of the same shapes and some more.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.unit.agent.policy.questions import Case, policies_of_case, questions_of, unenforced, wrong_answers

from pilus_agent.sources.documents import Raw, documents
from pilus_api.policies import is_policy

FOLDER: Final = os.environ.get("PILUS_EXAMPLES", "")
UPSTREAM: Final = yaml.safe_load(Path(__file__).with_name("upstream.yaml").read_text())
SHAPES: Final = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text())

# Upstream's files in which there is no policy, and what is there.
NO_POLICIES: Final = {
    "kubernetes/namespace/demo-pods.yaml": "namespaces and pods for the policies beside it",
    "kubernetes/serviceaccount/demo-pods.yaml": "accounts and pods for the policy beside it",
}


def files() -> list[Any]:
    if not FOLDER:
        unset = "PILUS_EXAMPLES names no folder of upstream policies"
        return [pytest.param("", marks=pytest.mark.skip(reason=unset), id="unset")]
    found = sorted(path for path in Path(FOLDER).rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
    assert found, f"there is no example in {FOLDER}"
    return [path.relative_to(FOLDER).as_posix() for path in found]


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


@pytest.mark.parametrize("name", files())
def test_an_upstream_example_means_what_it_documents(name: str) -> None:
    policies = [held for held in objects_of(name) if is_policy(held)]
    if name in NO_POLICIES:
        assert not policies, f"{name} is said to have {NO_POLICIES[name]}, and has a policy"
        return
    if name not in UPSTREAM:
        pytest.fail(f"{name} is in no table: say in upstream.yaml what it means, or in NO_POLICIES what it has", pytrace=False)
    assert policies, f"{name} has no policy"
    cases = cases_of(UPSTREAM[name])
    assert asks_both(cases)
    for case in cases:
        beside = [held for other in case.beside for held in objects_of(other)]
        verify(name, policies + beside, case)


@pytest.mark.parametrize("shape", SHAPES, ids=[shape["name"] for shape in SHAPES])
def test_a_policy_of_our_own_means_what_it_says(shape: dict[str, Any]) -> None:
    cases = cases_of(shape["cases"])
    assert asks_both(cases)
    assert all(is_policy(held) for held in shape["policies"])
    for case in cases:
        verify(shape["name"], shape["policies"], case)
