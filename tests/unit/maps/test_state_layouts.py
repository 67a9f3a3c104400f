"""State survives an upgrade: structs whose maps are never emptied may only grow into their reserved bytes.

`state_layouts.json` is what the last release pinned; it changes with a release and with nothing else.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.fakes import ROOT, described
from tests.unit.maps.test_layout import LOADER

from pilus_agent.datapath.programs import prune
from pilus_maps import Datapath

RELEASED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "state_layouts.json").read_text())


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_a_field_stays_where_it_was(name: str) -> None:
    now = described()["structs"][name]
    assert now["size"] == RELEASED[name]["size"], f"struct {name} has another size: open connections would be lost at an upgrade"
    places = {field["name"]: (field["offset"], field["size"], field["count"]) for field in now["fields"]}
    for field, place in RELEASED[name]["fields"].items():
        if not field.startswith("reserved"):
            assert places.get(field) == tuple(place), f"{name}.{field} has moved"


def _pins(tmp_path: Path, *changes: tuple[str, str]) -> dict[str, str]:
    """What maps are pinned as, with these changes in the sources."""
    shutil.copytree(ROOT / "bpf", tmp_path / "bpf", dirs_exist_ok=True)
    text = (ROOT / "bpf/abi.h").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "bpf/abi.h").write_text(text)
    maps = LOADER.describe(tmp_path / "bpf", Path("/pins"), {})[1]["maps"]
    return {name: Path(held["pin"]).name for name, held in maps.items()}


def test_state_is_gone_on_with_by_a_release_that_has_only_grown(tmp_path: Path) -> None:
    before = _pins(tmp_path)
    grown = _pins(
        tmp_path,
        ("\tu32 backend;\n};", "\tu32 worker;\n};"),
        ("\tu32 reserved[2];\n};\n\n/* policies", "\tu32 a[2];\n};\n\n/* policies"),
    )
    assert {name for name in before if before[name] != grown[name]} == {"endpoints", "draft"}, "flows and embryonic stay"
    moved = _pins(tmp_path, ("#define PILUS_FLOW_LAYOUT 1", "#define PILUS_FLOW_LAYOUT 2"))
    assert {name for name in before if before[name] != moved[name]} == {"flows", "embryonic"}


def test_what_no_load_needs_any_more_is_unpinned(tmp_path: Path) -> None:
    def made(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    made("programs/new/pod_from", "programs/old/pod_from", "programs/held/pod_from", "maps/flows-1", "maps/flows-0", "links/x")
    datapath = Datapath({"version": 1, "hash": "new", "programs": {"pod_from": {"pin": str(tmp_path / "programs/new/pod_from")}},
                         "maps": {"flows": {"pin": str(tmp_path / "maps/flows-1")}}})  # fmt: skip
    assert prune(datapath, {"new", "held"}) == ["programs/old"], "what a filter still needs keeps its maps as well"
    assert prune(datapath, {"new"}) == ["programs/held", "maps/flows-0"]
    assert prune(datapath, {"new"}) == []
    assert (tmp_path / "maps/flows-1").exists()
    assert (tmp_path / "programs/new/pod_from").exists()
    assert (tmp_path / "links/x").exists()
