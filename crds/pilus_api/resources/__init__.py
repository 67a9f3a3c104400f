"""The objects that people and processes declare: one module per kind."""

from pilus_api.resources.adminnetworkpolicy import ADMIN_NETWORK_POLICY, BASELINE_ADMIN_NETWORK_POLICY, CLUSTER_NETWORK_POLICY
from pilus_api.resources.ciliumcidrgroup import CILIUM_CIDR_GROUP
from pilus_api.resources.ciliumendpoint import CILIUM_ENDPOINT
from pilus_api.resources.ciliumendpointslice import CILIUM_ENDPOINT_SLICE
from pilus_api.resources.ciliumidentity import CILIUM_IDENTITY
from pilus_api.resources.ciliumnetworkpolicy import CILIUM_CLUSTERWIDE_NETWORK_POLICY, CILIUM_NETWORK_POLICY
from pilus_api.resources.ciliumnode import CILIUM_NODE
from pilus_api.resources.kind import Kind
from pilus_api.resources.pilusnodestatus import PILUS_NODE_STATUS
from pilus_api.resources.pilusrangeclaim import PILUS_RANGE_CLAIM

# Every kind with a CustomResourceDefinition of ours, but for those of the network-policy-api project.
KINDS: tuple[Kind, ...] = (
    CILIUM_NETWORK_POLICY, CILIUM_CLUSTERWIDE_NETWORK_POLICY, CILIUM_IDENTITY, CILIUM_ENDPOINT, CILIUM_ENDPOINT_SLICE, CILIUM_NODE,
    CILIUM_CIDR_GROUP, PILUS_RANGE_CLAIM, PILUS_NODE_STATUS,
)  # fmt: skip

# For clusters where nobody has applied that project's own definitions.
NETWORK_POLICY_API: tuple[Kind, ...] = (ADMIN_NETWORK_POLICY, BASELINE_ADMIN_NETWORK_POLICY, CLUSTER_NETWORK_POLICY)

__all__ = ["KINDS", "NETWORK_POLICY_API", "Kind"]
