"""How many worlds are tried: 500, or PILUS_SOAK of them."""

from hypothesis import HealthCheck, settings
from tests.soak import SOAK, longer

settings.register_profile(
    "worlds",
    max_examples=SOAK,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WORLDS = settings.get_profile("worlds")

# Each is reached on ten roads: the long form has a fifth of them.
settings.register_profile("roads", settings.get_profile("worlds"), max_examples=longer(SOAK // 5, SOAK))
ROADS = settings.get_profile("roads")

# Objects cost more each: 100, or PILUS_SOAK of them.
settings.register_profile("objects", settings.get_profile("worlds"), max_examples=longer(SOAK, 100))
OBJECTS = settings.get_profile("objects")
