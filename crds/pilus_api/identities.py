"""Numeric identities: the reserved ones, and the ranges that allocated ones come from."""

from typing import Final, NewType

from pilus_api.labels import SOURCE_RESERVED, Label, Labels

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

RESERVED: Final[dict[Identity, Labels]] = {
    number: tuple(sorted(Label(SOURCE_RESERVED, name, "") for name in names)) for number, names in _NAMES.items()
}


def reserved_name(identity: int) -> str:
    """`host` for 1 and so on; "" for what is not reserved."""
    if identity == UNKNOWN:
        return "unknown"
    names = _NAMES.get(Identity(identity), ())
    return names[0] if names else ""
