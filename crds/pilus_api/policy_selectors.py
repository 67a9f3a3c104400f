"""Label selectors of policies -> selectors: sources of keys, the namespace that is implied, entities.

In: LabelSelector models. Out: pilus_api.selectors. Never: which identities they select.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pilus_api.errors import InvalidError
from pilus_api.labels import (
    CLUSTER_KEY,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_KEY,
    SOURCE_ANY,
    SOURCE_KUBERNETES,
    SOURCE_NODE,
    SOURCE_RESERVED,
    parse_label,
)
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.rules import Peer
from pilus_api.selectors import EVERYTHING, Operator, Requirement, Selector, equals, exists, selector

# The entity `none`: a label that nobody has.
NOBODY: Final = Selector((equals(SOURCE_RESERVED, "none", ""),))

_KUBERNETES_SOURCES = (SOURCE_KUBERNETES, SOURCE_ANY)
_WORLD = ("world", "world-ipv4", "world-ipv6")
_LOCAL = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")


def requirements(held: LabelSelector, path: str, source: str = "", prefix: str = "") -> tuple[Requirement, ...]:
    """The requirements as written. Keys name their source (none: any), or all have `source` and get `prefix`.

    Raises InvalidError for a key that is none.
    """

    def split(key: str) -> tuple[str, str]:
        if source:
            return source, prefix + key
        try:
            label = parse_label(key)
        except InvalidError as error:
            raise InvalidError(str(error), path) from error
        return label.source, label.key

    found = [equals(*split(key), value) for key, value in held.match_labels.items()]
    found += [
        Requirement(*split(each.key), Operator(each.operator), tuple(sorted(set(each.values)))) for each in held.match_expressions
    ]
    return tuple(found)


def _names_namespace(held: Sequence[Requirement]) -> bool:
    return any(
        each.source in _KUBERNETES_SOURCES and (each.key == NAMESPACE_KEY or each.key.startswith(f"{NAMESPACE_LABELS_KEY}."))
        for each in held
    )


def _names_reserved(held: Sequence[Requirement]) -> bool:
    return any(each.source == SOURCE_RESERVED for each in held)


def in_namespace(namespace: str) -> Requirement:
    return equals(SOURCE_KUBERNETES, NAMESPACE_KEY, namespace)


IN_SOME_NAMESPACE: Final = exists(SOURCE_KUBERNETES, NAMESPACE_KEY)


def subject(held: LabelSelector, namespace: str, path: str) -> Selector:
    """Whom a policy governs. In a namespace, that namespace is forced: another `k8s:` one in matchLabels is overridden."""
    wanted = requirements(held, path)
    if not namespace:
        return selector(*wanted)
    overridden = {
        equals(SOURCE_KUBERNETES, NAMESPACE_KEY, value) for key, value in held.match_labels.items() if key == f"k8s:{NAMESPACE_KEY}"
    }
    return selector(*(each for each in wanted if each not in overridden), in_namespace(namespace))


def peer(held: LabelSelector, namespace: str, path: str, *, init: bool, requires: bool = False) -> Selector:
    """A peer of a policy in `namespace`, or of a clusterwide one with "". `init`: the policy governs reserved:init."""
    wanted = requirements(held, path)
    reserved = _names_reserved(wanted) and not requires
    if namespace:
        exempt = _names_namespace(wanted) or reserved
        return selector(*wanted) if exempt else selector(*wanted, in_namespace(namespace))
    return selector(*wanted) if init or reserved else selector(*wanted, IN_SOME_NAMESPACE)


def governs_init(held: Selector) -> bool:
    return held.names(SOURCE_RESERVED, ("init",))


def _reserved(name: str) -> Selector:
    return Selector((equals(SOURCE_RESERVED, name, ""),))


API_SERVER: Final = _reserved("kube-apiserver")


_ANOTHER_NODE: Final = _reserved("remote-node")
OTHER_NODES: Final = (_ANOTHER_NODE,)
NODES: Final = (_reserved("host"), _ANOTHER_NODE)  # this one and others


def other_nodes(held: LabelSelector, path: str) -> Selector:
    """The nodes but this one that have these labels, and never a pod on one. Raises InvalidError.

    A key without a source is one of a Node object's labels.
    """
    wanted = [replace(each, source=SOURCE_NODE) if each.source == SOURCE_ANY else each for each in requirements(held, path)]
    return selector(*wanted, *_ANOTHER_NODE.requirements)


def host_subject(held: LabelSelector, path: str) -> Selector:
    """The nodes that a policy governs, this one's host endpoint among them. Raises InvalidError.

    A key without a source, or with that of Kubernetes' objects, is one of a Node object's labels.
    """
    wanted = [
        replace(each, source=SOURCE_NODE) if each.source in _KUBERNETES_SOURCES else each for each in requirements(held, path)
    ]
    return selector(*wanted, exists(SOURCE_RESERVED, "host"))


def anybody(peers: tuple[Peer, ...] | None) -> tuple[Peer, ...] | None:
    """None where one of them is everybody: also whom nobody has told of yet, whom no selector selects."""
    return None if peers is not None and EVERYTHING in peers else peers


def entity(name: str, cluster: str) -> tuple[Selector, ...]:
    """What an entity stands for, in a cluster of that name."""
    match name:
        case "all":
            return (EVERYTHING,)
        case "world":
            return tuple(_reserved(each) for each in _WORLD)
        case "cluster":
            return (*(_reserved(each) for each in _LOCAL), Selector((equals(SOURCE_KUBERNETES, CLUSTER_KEY, cluster),)))
        case "none":
            return (NOBODY,)
        case _:
            return (_reserved(name),)
