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
        flags = INGRESS_ENFORCED if self.ingress_enforced else 0
        flags |= EGRESS_ENFORCED if self.egress_enforced else 0
        return flags | (READY if self.identity is not None else 0)


@dataclass(frozen=True, slots=True)
class Host:
    """This node itself as wanted in the kernel, where it has a policy. `policy` and `audit` as an Endpoint's."""

    policy: bytes
    ingress_enforced: bool
    egress_enforced: bool
    audit: bytes

    @property
    def flags(self) -> int:
        return READY | (INGRESS_ENFORCED if self.ingress_enforced else 0) | (EGRESS_ENFORCED if self.egress_enforced else 0)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
