"""What of an object in a file may not be what its author meant, though nobody refuses it; objects that nobody would take; and what
an API server refuses in an object whatever its kind, of which an agent knows that it has been checked.

In: an object. Out: paths with words. Never: what an object means, which `pilus_api` says.
"""

import difflib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

from pilus_api.lifelines import CUT_ANNOTATION, cut_by
from pilus_api.policy_doubts import Found, policy_doubts
from pilus_api.policy_kinds import POLICY_KINDS
from pilus_api.policy_modes import MODE_ANNOTATION, mode_of
from pilus_api.resources import KINDS
from pilus_api.resources.labelselector import dns_label, dns_subdomain, label_value, qualified
from pilus_api.resources.model import without_nulls

_SERVED: Final = {kind.name: kind.api_version for kind in KINDS} | {kind.name: kind.version for kind in POLICY_KINDS}
_GROUPS: Final = frozenset(version.rpartition("/")[0] for version in _SERVED.values())
# What else a group has that an API server brings itself.
_NO_POLICIES: Final = {"networking.k8s.io": frozenset(("Ingress", "IngressClass", "IPAddress", "ServiceCIDR"))}
_ANNOTATIONS: Final = (CUT_ANNOTATION, MODE_ANNOTATION)
_PREFIX: Final = "pilus.io/"
_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_MORE: Final = {"CiliumNetworkPolicy": ("specs",), "CiliumClusterwideNetworkPolicy": ("specs",)}
# ObjectMeta's, as in the Go module k8s.io/apimachinery.
_METADATA: Final = (
    "name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers", "managedFields",
)  # fmt: skip
_MOST_ANNOTATED: Final = 256 << 10  # bytes of all keys and values
# Maps of text with free keys, and lists of such. A null in the matchLabels of other kinds than NetworkPolicy is refused.
_MAPS: Final = frozenset(("labels", "annotations"))
_LISTS: Final = frozenset(("l7",))


def unserved(obj: Mapping[str, Any]) -> Found | None:
    """Why no API server would take it for one of our kinds, though its kind or its group is that of one."""
    kind, version = str(obj.get("kind", "")), obj.get("apiVersion")
    if kind in _SERVED:
        if version == _SERVED[kind]:
            return None
        return "apiVersion", f"{kind} is {_SERVED[kind]}, and {f'not {version!r:.100}' if version else 'none is given'}"
    group = str(version).rpartition("/")[0]
    if group not in _GROUPS or kind in _NO_POLICIES.get(group, ()):
        return None
    (near,) = difflib.get_close_matches(kind[:100], _SERVED, 1, 0.0)
    return "kind", f"{group} has no kind {kind!r:.100} here; the nearest is {near}, {_SERVED[near]}"


def ours(obj: Mapping[str, Any]) -> bool:
    """Whether it is of one of our kinds, or seems to be meant so."""
    return str(obj.get("kind", "")) in _SERVED or unserved(obj) is not None


def malformed(obj: Mapping[str, Any]) -> Iterator[Found]:
    """Beside its spec. Wrong types are left to the models."""
    yield from _unknown(obj, (*_FIELDS, *_MORE.get(str(obj.get("kind")), ())), "")
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        return
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if isinstance(name, str) and not dns_subdomain(name):
        yield "metadata.name", f"{name!r:.100} is no name: up to 253 of a-z, 0-9, `-` and `.`, neither at an end nor at a dot"
    if isinstance(namespace, str) and namespace and not dns_label(namespace):
        yield "metadata.namespace", f"{namespace!r:.100} is no namespace: up to 63 of a-z, 0-9 and `-`, which is at no end"
    for key, value in _texts(metadata.get("labels")):
        if not qualified(key):
            yield f"metadata.labels.{key}", f"{key!r:.100} is no label's key"
        if not label_value(value):
            yield f"metadata.labels.{key}", f"{value!r:.100} is no label's value"
    annotations = _texts(metadata.get("annotations"))
    for key, _ in annotations:
        if not qualified(key.lower()):  # their case is free
            yield f"metadata.annotations.{key}", f"{key!r:.100} is no annotation's key"
    if sum(len(text.encode(errors="replace")) for pair in annotations for text in pair) > _MOST_ANNOTATED:
        yield "metadata.annotations", f"more than {_MOST_ANNOTATED} bytes"


def _unknown(held: Mapping[str, Any], known: Sequence[str], path: str) -> Iterator[Found]:
    for key in held:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:100], known, 1)
            yield f"{path}{key}", f"unknown field {str(key)!r:.100}" + (f": is {near[0]} meant?" if near else "")


def _texts(held: object) -> list[tuple[str, str]]:
    """The entries of a map that are text; a null is an empty one."""
    pairs = held.items() if isinstance(held, dict) else ()
    texts = [(key, "" if value is None else value) for key, value in pairs]
    return [(key, value) for key, value in texts if isinstance(key, str) and isinstance(value, str)]


def overlooked(obj: Mapping[str, Any]) -> Iterator[Found]:
    """What readers may pass over: a field of metadata that doesn't exist (examples have some, and kubectl refuses them), and a null
    in a map of text, which some take for an empty text and others for an absent key."""
    if isinstance(metadata := obj.get("metadata"), dict):
        yield from _unknown(metadata, _METADATA, "metadata.")
    maps = _MAPS | {"matchLabels"} if obj.get("kind") == "NetworkPolicy" else _MAPS
    yield from _nulls({key: held for key, held in obj.items() if key != "status"}, "", maps, free=False)


def _nulls(held: object, path: str, maps: Container[str], *, free: bool) -> Iterator[Found]:
    if isinstance(held, list):
        for i, one in enumerate(held):
            yield from _nulls(one, f"{path}[{i}]", maps, free=free)
    elif isinstance(held, dict):
        for key, one in held.items():
            where = f"{path}.{key}" if path else str(key)
            if free and one is None:
                yield where, "is null and no text: give one, '' if it is to be empty, or leave the key out"
            yield from _nulls(one, where, maps, free=key in (maps if isinstance(one, dict) else _LISTS))


def doubts(obj: Mapping[str, Any]) -> Iterator[Found]:
    """Of a policy that makes sense, or of a Namespace, which says in what mode its policies are."""
    held = without_nulls(dict(obj))
    yield from _annotations(held)
    yield from policy_doubts(held)


def _annotations(held: Mapping[str, Any]) -> Iterator[Found]:
    metadata = held.get("metadata")
    given = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not isinstance(given, dict):
        return
    path = "metadata.annotations"
    for key in given:
        if str(key).startswith(_PREFIX) and key not in _ANNOTATIONS:
            yield f"{path}.{key}", f"says nothing: there are {' and '.join(_ANNOTATIONS)}"
    for key, (_, trouble) in ((MODE_ANNOTATION, mode_of(held, "", everywhere=False)), (CUT_ANNOTATION, cut_by(held))):
        if trouble:
            yield f"{path}.{key}", trouble
