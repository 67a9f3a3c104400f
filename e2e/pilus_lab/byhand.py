"""Objects that an operator would write, for labs without one."""

from collections.abc import Iterable

NODE = """
---
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {{name: n{index}}}
spec:
  addresses: [{{type: InternalIP, ip: 172.30.0.1{index}}}, {{type: InternalIP, ip: "fd00:30::1{index}"}}]
  ipam: {{podCIDRs: ["10.44.{index}.0/24", "fd00:44:0:{index}::/112"]}}
---
apiVersion: pilus.io/v1alpha1
kind: PilusRangeClaim
metadata: {{name: 10-44-{index}-0-24}}
spec: {{node: n{index}, range: 10.44.{index}.0/24}}
---
apiVersion: pilus.io/v1alpha1
kind: PilusRangeClaim
metadata: {{name: "fd00-44-0-{index}---112"}}
spec: {{node: n{index}, range: "fd00:44:0:{index}::/112"}}
"""
IDENTITY = """
---
apiVersion: cilium.io/v2
kind: CiliumIdentity
metadata: {{name: "{number}"}}
security-labels:
  k8s:app: {app}
  k8s:io.kubernetes.pod.namespace: default
  k8s:io.cilium.k8s.policy.cluster: default
  k8s:io.cilium.k8s.policy.serviceaccount: default
  k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: default
"""


def nodes(indices: Iterable[int] = (1, 2)) -> str:
    """CiliumNodes n1, n2, ... with ranges of both families, and the claims to these."""
    return "".join(NODE.format(index=index) for index in indices)


def identity(number: int, app: str) -> str:
    """The CiliumIdentity of pods with this label, in namespace `default`."""
    return IDENTITY.format(number=number, app=app)
