"""The kinds of policy: what each is called, where it is served, and who wrote its definition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """`short`: our own word for it, where many kinds of things stand beside each other.

    `ours`: its definition is one of ours and has columns and counts; without it, it has conditions alone, and need not be there.
    """

    short: str
    version: str  # apiVersion
    name: str
    plural: str
    namespaced: bool = False
    ours: bool = False
    builtin: bool = False  # an API server has it without a definition, and it has no status

    @property
    def path(self) -> str:
        """Of the collection of all namespaces."""
        return f"/apis/{self.version}/{self.plural}"


POLICY_KINDS: Final = (
    PolicyKind("cnp", "cilium.io/v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies", namespaced=True, ours=True),
    PolicyKind("ccnp", "cilium.io/v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", ours=True),
    PolicyKind("knp", "networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", namespaced=True, builtin=True),
    PolicyKind("anp", "policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies"),
    PolicyKind("banp", "policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies"),
    PolicyKind("kcnp", "policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy", "clusternetworkpolicies"),
)
BY_SHORT: Final[Mapping[str, PolicyKind]] = {kind.short: kind for kind in POLICY_KINDS}
BY_NAME: Final[Mapping[str, PolicyKind]] = {kind.name: kind for kind in POLICY_KINDS}


def optional(kind: PolicyKind) -> bool:
    """Whether a cluster may do without its definition."""
    return not (kind.ours or kind.builtin)
