"""The admission policy that is made from the settings: it lies in manifests/, names every key, and checks what can be checked."""

import re
from pathlib import Path

import yaml

from pilus_api import config_admission
from pilus_api.settings import KEYS, LIVE, parse

MANIFESTS = Path(__file__).parents[3] / "manifests"
DOCS = Path(__file__).parents[3] / "docs"


def test_what_lies_in_the_folder_is_what_would_be_written(tmp_path: Path) -> None:
    assert config_admission.main(["--check", str(MANIFESTS)]) == 0
    assert config_admission.main(["--check", str(tmp_path)]) == 1
    assert config_admission.main(["--write", str(tmp_path)]) == 0
    assert config_admission.main(["--check", str(tmp_path)]) == 0


def test_every_key_is_known_and_most_are_checked() -> None:
    policy, binding = yaml.safe_load_all(config_admission.rendered())
    (known,) = [one["expression"] for one in policy["spec"]["variables"] if one["name"] == "known"]
    assert yaml.safe_load(known) == list(KEYS)
    checked = {key for key in KEYS for one in policy["spec"]["validations"] if f"'{key}' in variables.data" in one["expression"]}
    # Labels, and addresses to serve at: any text may be one.
    assert set(KEYS) - checked == {"labels", "node-labels", *(key for key in KEYS if key.endswith(("-addr", "metrics-server")))}
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_the_config_map_that_is_applied_is_understood_by_the_processes() -> None:
    held = yaml.safe_load((MANIFESTS / "config.yaml").read_text())
    assert all(isinstance(value, str) for value in held["data"].values())
    assert parse(held["data"]).k8s_api_server == ""


def test_the_page_for_people_names_every_key_with_its_default_s_mark() -> None:
    rows = [line for line in (DOCS / "install.md").read_text().splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert named == set(KEYS)
    live = {word for row in rows if "*live*" in row for word in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert live == LIVE
