"""State survives an upgrade: structs whose maps are never emptied may only grow into their reserved bytes.

`state_layouts.json` is what the last release pinned; it changes with a release and with nothing else.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.fakes import described

RELEASED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "state_layouts.json").read_text())


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_a_field_stays_where_it_was(name: str) -> None:
    now = described()["structs"][name]
    assert now["size"] == RELEASED[name]["size"], f"struct {name} has another size: open connections would be lost at an upgrade"
    places = {field["name"]: (field["offset"], field["size"], field["count"]) for field in now["fields"]}
    for field, place in RELEASED[name]["fields"].items():
        if not field.startswith("reserved"):
            assert places.get(field) == tuple(place), f"{name}.{field} has moved"
