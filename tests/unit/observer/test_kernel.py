"""The pins, opened when there are any. What needs real pins is in tests/kernel/test_observer.py."""

import json
from pathlib import Path

import pytest

from pilus_api.errors import TemporaryError
from pilus_observer.kernel import Kernel


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{broken",
        "[]",
        "{}",
        json.dumps({"version": 1}),
        json.dumps({"version": 99, "hash": "x"}),
        json.dumps({"version": 1, "hash": "x", "maps": {}}),
        json.dumps({"version": 1, "hash": "x", "maps": {"events": {"pin": "/nowhere"}}}),
    ],
)
async def test_no_datapath_is_waited_for(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "datapath.json"
    if text is not None:
        path.write_text(text)
    kernel = Kernel(path)
    await kernel.refresh()
    await kernel.refresh()
    assert kernel.generation == 0
    with pytest.raises(TemporaryError, match="no datapath is loaded"):
        await kernel.run(lambda datapath: datapath.hash)
    await kernel.close()
