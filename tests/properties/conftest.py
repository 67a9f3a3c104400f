"""How many worlds are tried: 500, or PILUS_SOAK of them."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "worlds",
    max_examples=int(os.environ.get("PILUS_SOAK", "500")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WORLDS = settings.get_profile("worlds")

# Objects cost more each: 100, or PILUS_SOAK of them.
settings.register_profile("objects", settings.get_profile("worlds"), max_examples=int(os.environ.get("PILUS_SOAK", "100")))
OBJECTS = settings.get_profile("objects")
