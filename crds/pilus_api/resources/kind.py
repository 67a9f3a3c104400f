"""A kind: what a CustomResourceDefinition says about it beside its schema."""

from dataclasses import dataclass

from pilus_api.resources.model import Resource

CILIUM_GROUP = "cilium.io"
PILUS_GROUP = "pilus.io"
NETWORK_POLICY_GROUP = "policy.networking.k8s.io"


@dataclass(frozen=True, slots=True)
class Column:
    """One of kubectl's columns; `priority` 1 is shown by `-o wide` alone."""

    name: str
    type: str
    path: str
    priority: int = 0


AGE = Column("Age", "date", ".metadata.creationTimestamp")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind, with the model of its only version."""

    model: type[Resource]
    group: str
    version: str
    name: str
    plural: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = False
    status: bool = False  # written through the subresource
    columns: tuple[Column, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{self.group}"
