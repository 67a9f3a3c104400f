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
