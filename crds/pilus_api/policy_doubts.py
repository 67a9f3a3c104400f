"""What of a policy object means something, and maybe not what its author wanted. It changes nothing.

In: raw JSON objects that `drafts_of` takes. Out: paths with words.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pilus_api.labels import NAMESPACE_KEY
from pilus_api.policy_ports import ports
from pilus_api.resources.model import parse, without_nulls
from pilus_api.resources.policyports import PortDenyRule

Found = tuple[str, str]  # path, what is doubtful there


def policy_doubts(obj: Mapping[str, Any]) -> Iterator[Found]:
    if not str(obj.get("apiVersion")).startswith("cilium.io/"):
        return
    held = without_nulls(obj)
    specs = {"spec": held["spec"]} if "spec" in held else {}
    specs |= {f"specs[{index}]": spec for index, spec in enumerate(held.get("specs") or ())}
    for path, spec in specs.items():
        if held["kind"] == "CiliumNetworkPolicy":
            yield from _overridden(held["metadata"].get("namespace", ""), spec, path)
        yield from _inside_out(spec, path)


def _overridden(namespace: str, spec: Mapping[str, Any], path: str) -> Iterator[Found]:
    key = f"k8s:{NAMESPACE_KEY}"
    wanted = ((spec.get("endpointSelector") or {}).get("matchLabels") or {}).get(key, namespace)
    if wanted != namespace:
        own = f", {namespace}" if namespace else ""
        yield f"{path}.endpointSelector.matchLabels.{key}", f"is overridden: the policy governs pods of its own namespace{own}"


def _inside_out(spec: Mapping[str, Any], path: str) -> Iterator[Found]:
    for section in ("ingress", "ingressDeny", "egress", "egressDeny"):
        for i, element in enumerate(spec.get(section) or ()):
            for j, rule in enumerate(element.get("toPorts") or ()):
                for k, port in enumerate(rule.get("ports") or ()):
                    if last := port.get("endPort"):
                        first = ports((parse(PortDenyRule, {"ports": [port]}),))[0]
                        if last < first.low:
                            where = f"{path}.{section}[{i}].toPorts[{j}].ports[{k}].endPort"
                            yield where, f"is below port {first.low}: that one port is meant"
