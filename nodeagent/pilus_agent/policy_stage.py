"""TEMPORARY"""
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Governed:
    policy: bytes
    ingress_enforced: bool
    egress_enforced: bool


class PolicyStage:
    def __init__(self, settings: Any) -> None: ...
    def put(self, kind: str, key: str, fact: Any) -> None: ...
    def identity(self, number: Any, labels: Any) -> None: ...
    def restore(self, held: Any, layouts: Any) -> None: ...
    def decide(self, identities: Any, endpoints: Any, ports: Any) -> dict[str, Governed]:
        return {key: Governed(b"", False, False) for key in endpoints}
    def rows(self) -> dict[str, list[tuple[Any, Any]]]:
        return {name: [] for name in ("verdicts", "peers", "cidrs", "policies")}
    def number(self, policy: bytes) -> int:
        return 0
    def acknowledgements(self) -> list[dict[str, Any]]:
        return []
    def checks(self) -> list[dict[str, Any]]:
        return []
    def views(self, numbers: Any) -> list[dict[str, Any]]:
        return []
    def explain(self, key: str, identities: Any) -> dict[str, Any]:
        return {}
