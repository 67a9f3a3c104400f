"""The groups of figures, in the order they are measured, and how long each may take."""

from typing import Final, NamedTuple


class Limits(NamedTuple):
    """Of a group's whole run, in seconds. Far above what it takes on a quiet machine."""

    full: float
    quick: float


# Name: the module of this package that has `measure`.
GROUPS: Final[dict[str, Limits]] = {
    "packets": Limits(180, 90),
    "compiler": Limits(120, 60),
    "scale": Limits(240, 180),
    "roundtrips": Limits(900, 480),
    "weathers": Limits(480, 300),
    "flow_events": Limits(240, 180),
    "policies": Limits(180, 120),
    "enforcement": Limits(900, 240),
    "pods": Limits(600, 480),
    "restarts": Limits(480, 300),
    "footprint": Limits(180, 180),
}
