"""A case: policies as people write them, and what they keep from being reached, written by hand.

`denied` says of a question whether these policies deny it: what it does not deny is reached, as everything is without policies. It
is never made from the policies. It need not say that a node may always speak to its own pods. In a policy `@x/a/4` stands for that
pod's IPv4 address.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from string import Template

from e2e.scenarios.truth.ask import Ask

Denied = Callable[[Ask], bool]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    policies: str
    denied: Denied
    short: bool = False  # also in `make test`


def spelled(words: Mapping[str, str], cases: Iterable[Case]) -> list[Case]:
    """With what stands for `$word` in their policies."""
    return [replace(case, policies=Template(case.policies).substitute(words)) for case in cases]


def nothing(_: Ask) -> bool:
    return False


def into(*pods: str) -> Denied:
    """Whatever goes to these pods: `x/a`, or `x` for all of a namespace."""
    return lambda q: q.to in pods or q.to_ns in pods


def out_of(*pods: str) -> Denied:
    return lambda q: q.by in pods or q.by_ns in pods


def _object(version: str, kind: str, metadata: str, spec: str) -> str:
    return f"---\napiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\n{spec}\n"


def knp(space: str, spec: str, name: str = "tested", more: str = "") -> str:
    return _object("networking.k8s.io/v1", "NetworkPolicy", f"name: {name}, namespace: {space}{more}", f"spec: {{{spec}}}")


def cnp(space: str, spec: str, name: str = "tested", more: str = "") -> str:
    return _object("cilium.io/v2", "CiliumNetworkPolicy", f"name: {name}, namespace: {space}{more}", f"spec: {{{spec}}}")


def cnps(space: str, specs: str) -> str:
    return _object("cilium.io/v2", "CiliumNetworkPolicy", f"name: tested, namespace: {space}", f"specs: [{specs}]")


def ccnp(spec: str, name: str = "tested", more: str = "") -> str:
    return _object("cilium.io/v2", "CiliumClusterwideNetworkPolicy", f"name: {name}{more}", f"spec: {{{spec}}}")


def group(name: str, prefixes: str) -> str:
    return _object("cilium.io/v2alpha1", "CiliumCIDRGroup", f"name: {name}", f"spec: {{externalCIDRs: [{prefixes}]}}")


def anp(priority: int, spec: str, name: str = "tested", more: str = "") -> str:
    held = f"spec: {{priority: {priority}, {spec}}}"
    return _object("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", f"name: {name}{more}", held)


def banp(spec: str) -> str:
    return _object("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy", "name: default", f"spec: {{{spec}}}")


def tier(which: str, priority: int, spec: str, name: str = "tested") -> str:
    held = f"spec: {{tier: {which}, priority: {priority}, {spec}}}"
    return _object("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy", f"name: {name}", held)


AUDIT = ", annotations: {pilus.io/mode: audit}"
