"""In which order tables are written, so that no packet is judged by half of anything. Pure.

Contents before what points at them: port tables, classes, the policy that names them; then who is known; then who has which
address; then the endpoints, which is the switch. Removal runs the other way, and what a packet in flight may still read goes
a second after nothing points at it any more.
"""

from typing import Final

WRITE_ORDER: Final = ("verdicts", "peers", "cidrs", "policies", "identities", "pod_ranges", "ipcache", "endpoints", "backends",
                      "services", "settings")  # fmt: skip
REMOVE_AT_ONCE: Final = ("services", "endpoints", "ipcache", "pod_ranges", "identities")
REMOVE_LATER: Final = ("policies", "peers", "cidrs", "verdicts", "backends")

# A table that could not be written keeps these from being written: they would point at what is not there.
DEPENDS: Final = {
    "policies": frozenset({"verdicts", "peers", "cidrs"}),
    # An identity that is known but not in every policy's rows would get the default class.
    "identities": frozenset({"verdicts", "peers", "cidrs", "policies"}),
    "endpoints": frozenset({"policies"}),
    "services": frozenset({"backends"}),
}


def allowed(table: str, failed: frozenset[str]) -> bool:
    """Whether a table may be written although these could not be."""
    return not DEPENDS.get(table, frozenset()) & failed
