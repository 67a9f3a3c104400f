"""CiliumEndpoints of this node's pods, wanted of the publisher as endpoints change.

In: all endpoints, again and again. Out: what shall stand at their paths; one that is what it was is not made again.
"""

from collections.abc import Callable, Mapping

from pilus_agent.desired.endpoints import Endpoint
from pilus_agent.facts import Address, Attachment
from pilus_agent.objects import ENDPOINTS_PATH, cilium_endpoint, endpoint_path
from pilus_agent.publish import Publisher
from pilus_api.labels import Labels

Ports = frozenset[tuple[str, int, int]]


class EndpointObjects:
    """`node` and `address` are this node's."""

    def __init__(self, publisher: Publisher, node: str, address: Address | None) -> None:
        self._publisher = publisher
        self._node = node
        self._address = address
        self._told: dict[str, tuple[Endpoint, Labels, Ports]] = {}  # what an object was last made of, by its path

    def want(
        self, endpoints: Mapping[str, Endpoint], labels: Callable[[Attachment], Labels], ports: Callable[[Attachment], Ports]
    ) -> None:
        """These and no others. A pod may have two attachments for a while, the old sandbox's and the new one's: the later holds."""
        told: dict[str, tuple[Endpoint, Labels, Ports]] = {}
        for endpoint in endpoints.values():
            attachment = endpoint.attachment
            told[endpoint_path(attachment.namespace, attachment.pod)] = endpoint, labels(attachment), ports(attachment)
        for path, of in told.items():
            if self._told.get(path) != of:
                self._publisher.want(path, cilium_endpoint(*of, self._address, self._node))
        self._told = told
        # A CiliumEndpoint goes with its pod: the pod owns it.
        self._publisher.keep(ENDPOINTS_PATH, told.keys())
