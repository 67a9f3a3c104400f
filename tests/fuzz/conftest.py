"""How many examples each: 100, or PILUS_SOAK of them where it is given by hand.

`make soak` leaves them out: 20,000 of each take some twenty minutes, by `PILUS_SOAK=20000 tests/run.sh --timeout=3000 tests/fuzz`.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "hostile",
    max_examples=int(os.environ.get("PILUS_SOAK", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
HOSTILE = settings.get_profile("hostile")
