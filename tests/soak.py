"""How long a scenario runs: short in `make test`, long in `make soak`, which sets PILUS_SOAK.

PILUS_SOAK is a number: of worlds that each property test tries (tests/properties). Whoever has no worlds to count runs its long
form as soon as the number is above what `make test` has.
"""

import os
from typing import Final

WORLDS: Final = 500  # of `make test`
SOAK: Final = int(os.environ.get("PILUS_SOAK", WORLDS))


def longer(long: int, short: int) -> int:
    """What a scenario counts (rounds, seconds, turns): the long form's under soak."""
    return long if SOAK > WORLDS else short
