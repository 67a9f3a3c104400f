"""Numeric identities: the reserved ones, those that a cluster's settings give, and the ranges that allocated ones come from."""

from collections.abc import Iterable, Mapping
from typing import Final, NewType

from pilus_api.errors import InvalidError
from pilus_api.labels import SOURCE_RESERVED, Label, Labels, pod_labels, reserved_labels

Identity = NewType("Identity", int)

UNKNOWN: Final = Identity(0)
HOST: Final = Identity(1)
WORLD: Final = Identity(2)
UNMANAGED: Final = Identity(3)
HEALTH: Final = Identity(4)
INIT: Final = Identity(5)
REMOTE_NODE: Final = Identity(6)
KUBE_APISERVER: Final = Identity(7)
INGRESS: Final = Identity(8)
WORLD_IPV4: Final = Identity(9)
WORLD_IPV6: Final = Identity(10)

# Numbers that settings may give to names (fixed-identity-mapping), and the label by which a pod asks for one.
FIRST_FIXED: Final = 128
LAST_FIXED: Final = 255
FIXED_KEY: Final = "io.cilium.fixed-identity"

# Allocated identities of a cluster without a mesh: 256 to 65535.
FIRST_ALLOCATED: Final = 256
LAST_ALLOCATED: Final = 65535

# The eight highest bits say who has given a number: below this one a cluster; others are of one node, and mean nothing elsewhere.
SCOPE_SHIFT: Final = 24
LAST_OF_CLUSTERS: Final = (1 << SCOPE_SHIFT) - 1
REMOTE_NODE_SCOPE: Final = 2  # enum pilus_identity_scope: other nodes, known by their labels

_NAMES: Final = {
    HOST: ("host",),
    WORLD: ("world",),
    UNMANAGED: ("unmanaged",),
    HEALTH: ("health",),
    INIT: ("init",),
    REMOTE_NODE: ("remote-node",),
    KUBE_APISERVER: ("kube-apiserver", "remote-node"),
    INGRESS: ("ingress",),
    WORLD_IPV4: ("world-ipv4",),
    WORLD_IPV6: ("world-ipv6",),
}

RESERVED: Final[dict[Identity, Labels]] = {number: reserved_labels(*names) for number, names in _NAMES.items()}


def reserved_name(identity: int) -> str:
    """`host` for 1 and so on; "" for what is not reserved."""
    if identity == UNKNOWN:
        return "unknown"
    names = _NAMES.get(Identity(identity), ())
    return names[0] if names else ""


def fixed_identities(entries: Iterable[str]) -> dict[Identity, Labels]:
    """`128=kv-store` and so on. Raises InvalidError for a number that is none of these, a name that is given twice, or is ours."""
    found: dict[Identity, Labels] = {}
    for entry in entries:
        number, _, name = entry.partition("=")
        labels = (Label(SOURCE_RESERVED, name, ""),)
        if not number.isdecimal() or not FIRST_FIXED <= int(number) <= LAST_FIXED:
            raise InvalidError(f"{entry!r} is no NUMBER=NAME with a number from {FIRST_FIXED} to {LAST_FIXED}")
        if not name or labels in found.values() or any(labels[0] in held for held in RESERVED.values()):
            raise InvalidError(f"{entry!r} gives a name that is empty, reserved, or given already")
        if Identity(int(number)) in found:
            raise InvalidError(f"{entry!r} gives a number that is given already")
        found[Identity(int(number))] = labels
    return found


def is_fixed(labels: Labels) -> bool:
    """Whether a pod asks for a number by a name. If nobody has given it one, the pod has no identity at all."""
    return len(labels) == 1 and labels[0].source == SOURCE_RESERVED and labels not in RESERVED.values()


def identity_labels(
    labels: Mapping[str, str], namespace: str, namespace_labels: Mapping[str, str], service_account: str, cluster: str
) -> Labels:
    """What a pod's identity is made of, before the filter: its labels and derived ones, or the fixed name that it asks for."""
    name = labels.get(FIXED_KEY)
    if name is None:
        return pod_labels(labels, namespace, namespace_labels, service_account, cluster)
    asked = Label(SOURCE_RESERVED, name, "")
    # A pod is none of ours, whatever it calls itself.
    return (Label(SOURCE_RESERVED, "no-identity", "") if not name or any(asked in held for held in RESERVED.values()) else asked,)
