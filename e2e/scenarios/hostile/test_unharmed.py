"""After all that the others here have tried (this file is the last): everybody talks as before."""

import pytest
from e2e.scenarios.hostile.world import (
    World,
    is_ready,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def test_everybody_talks_as_before(world: World) -> None:
    world.everything_works()
    assert is_ready(world.lab, "probed")
    for node in ("n1", "n2"):
        running = world.lab.node(node).components()
        assert running["agent"]["status"] is None
        assert running["observer"]["status"] is None
    restarts = [held["restartCount"] for pod in world.lab.get("pods") for held in pod["status"]["containerStatuses"]]
    assert set(restarts) == {0}
