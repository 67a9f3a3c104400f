"""What the kernel shall know of this node's pods, and in which state each is. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from pilus_agent.facts import Attachment
from pilus_api.identities import Identity

# enum pilus_endpoint_flag
INGRESS_ENFORCED, EGRESS_ENFORCED, READY = 1, 2, 4


class State(StrEnum):
    """The words of CiliumEndpoint's status.state."""

    WAITING_FOR_IDENTITY = "waiting-for-identity"
    WAITING_TO_REGENERATE = "waiting-to-regenerate"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Governed:
    """What applies to an endpoint. `policy` is empty where nothing does, `audit` where no policy is in audit mode."""

    policy: bytes
    ingress_enforced: bool
    egress_enforced: bool
    audit: bytes = b""

    @property
    def restricts(self) -> bool:
        """Whether anything is refused, or told as what would be."""
        return self.ingress_enforced or self.egress_enforced or bool(self.audit)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod of this node as wanted in the kernel. `policy` names a compiled policy by content; empty: none applies.

    `audit` names the one that would apply if no policy were in audit mode; empty: none is.
    """

    attachment: Attachment
    identity: Identity | None
    policy: bytes
    ingress_enforced: bool
    egress_enforced: bool
    audit: bytes = b""

    @property
    def state(self) -> State:
        return State.WAITING_FOR_IDENTITY if self.identity is None else State.READY

    @property
    def flags(self) -> int:
        return enforced_flags(self.ingress_enforced, self.egress_enforced) | (READY if self.identity is not None else 0)


def enforced_flags(ingress: bool, egress: bool) -> int:
    """enum pilus_endpoint_flag, but for READY."""
    return (INGRESS_ENFORCED if ingress else 0) | (EGRESS_ENFORCED if egress else 0)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
