"""PilusNodeStatus: which policies are in force on a node. Named after the node and written by its agent alone."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from pilus_api.resources.kind import AGE, PILUS_GROUP, Column, Kind
from pilus_api.resources.model import Model, Resource

# How many pods of a node are told of, for each policy that is not in force as it is written.
MOST_PODS = 16
# Characters. What goes beyond is refused with the whole object, so agents cut it (pilus_agent.status_limits).
LONGEST_ERROR: Final = 4096
LONGEST_TEXT: Final = 512
LONGEST_NAMES: Final = {"namespace": 63, "name": 253, "uid": 128}  # of a pod
# The last of a list that was cut says how many were left out.
MORE: Final = re.compile(r"and (\d{1,9}) more\b")


class GovernedPod(Model):
    namespace: Annotated[str, Field(max_length=LONGEST_NAMES["namespace"])]
    name: Annotated[str, Field(max_length=LONGEST_NAMES["name"])]
    uid: Annotated[str, Field(max_length=LONGEST_NAMES["uid"])]


class RealisedPolicy(Model):
    """`generation` is the one that the rest speaks of; `unenforced` are the paths of fields that have no effect, and `notes` say
    what is in force and may not be what was meant.

    `audited`: it is in audit mode here, and denies nothing. `selected`: pods of this node that it governs, and the node itself.
    `pods`: some of these pods, where not all of it is in force.
    """

    uid: Annotated[str, Field(min_length=1, max_length=128)]
    generation: int
    realised: bool
    error: Annotated[str, Field(max_length=LONGEST_ERROR)] = ""
    unenforced: Annotated[Sequence[Annotated[str, Field(max_length=LONGEST_TEXT)]], Field(max_length=1000)] = ()
    notes: Annotated[Sequence[Annotated[str, Field(max_length=LONGEST_TEXT)]], Field(max_length=100)] = ()
    audited: bool = False
    selected: Annotated[int, Field(ge=0)] = 0
    pods: Annotated[Sequence[GovernedPod], Field(max_length=MOST_PODS)] = ()


class AgentStatus(Model):
    version: Annotated[str, Field(max_length=128)] = ""
    ready: bool = False


class NodeStatus(Model):
    policies: Annotated[
        Sequence[RealisedPolicy],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"]}),
    ] = ()  # fmt: skip
    agent: AgentStatus = AgentStatus()


class PilusNodeStatus(Resource):
    status: NodeStatus = NodeStatus()


# No status subresource: nothing else is in the object, and with one a new object would take two writes.
PILUS_NODE_STATUS = Kind(
    model=PilusNodeStatus, group=PILUS_GROUP, version="v1alpha1", name="PilusNodeStatus", plural="pilusnodestatuses",
    short_names=("pns",), categories=("pilus",),
    columns=(Column("Agent", "string", ".status.agent.version"), Column("Ready", "boolean", ".status.agent.ready"), AGE),
)  # fmt: skip
