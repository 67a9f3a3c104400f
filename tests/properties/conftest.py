"""How many worlds are tried: 500, or PILUS_SOAK of them; and which, for whoever wants the same again."""

import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, core, settings
from structlog.testing import capture_logs
from tests.soak import SOAK, longer

settings.register_profile(
    "worlds",
    max_examples=SOAK,
    deadline=None,
    derandomize=False,  # which is hypothesis' own way wherever CI is set: the same worlds for ever
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WORLDS = settings.get_profile("worlds")

# Each is reached on ten roads, or its rows are counted: the long form has a tenth of them.
settings.register_profile("roads", settings.get_profile("worlds"), max_examples=longer(SOAK // 10, SOAK))
ROADS = settings.get_profile("roads")

# Objects as somebody hostile would write them cost more each: 100, or PILUS_SOAK of them.
settings.register_profile("objects", settings.get_profile("worlds"), max_examples=longer(SOAK, 100))
OBJECTS = settings.get_profile("objects")


# It once found that a rule which passes on named ports of addresses meant another thing to each of two readers.
_KEPT = 3459737461

# Of --hypothesis-seed; else the long form draws what nobody has drawn, and the short one the same as ever: a change is not to fail
# by what it has nothing to do with. Set as this is imported: by every file that draws worlds, before it does.
if core.global_force_seed is None:
    core.global_force_seed = longer(secrets.randbits(32), _KEPT)  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Policies that make no sense are drawn by the thousand, and a long run shows what is printed."""
    with capture_logs():
        yield
