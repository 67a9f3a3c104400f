"""What of an object in a file may not be what its author meant, though nobody refuses it, and objects that nobody would take.

In: an object. Out: paths with words. Never: what an object means, which `pilus_api` says.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pilus_api.lifelines import CUT_ANNOTATION, cut_by
from pilus_api.policy_doubts import Found, policy_doubts
from pilus_api.policy_kinds import POLICY_KINDS
from pilus_api.policy_modes import MODE_ANNOTATION, mode_of
from pilus_api.resources import KINDS
from pilus_api.resources.model import without_nulls

_SERVED: Final = {kind.name: kind.api_version for kind in KINDS} | {kind.name: kind.version for kind in POLICY_KINDS}
_GROUPS: Final = frozenset(version.rpartition("/")[0] for version in _SERVED.values())
# What else a group has that an API server brings itself.
_NO_POLICIES: Final = {"networking.k8s.io": frozenset(("Ingress", "IngressClass", "IPAddress", "ServiceCIDR"))}
_ANNOTATIONS: Final = (CUT_ANNOTATION, MODE_ANNOTATION)
_PREFIX: Final = "pilus.io/"


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
