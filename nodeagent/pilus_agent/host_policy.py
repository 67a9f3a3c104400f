"""This node itself as an endpoint: its labels, the lifelines that hold, and what is left where its policy can't be enforced.

In: the Node object's labels, settings, and what policies about this node say of lifelines. Out: endpoints and policies for the
compiler. Pure but for its memory of these.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from pilus_agent.desired.policy.tables import Endpoint
from pilus_api.labels import SOURCE_RESERVED, Label, Labels, canonical
from pilus_api.lifelines import Surroundings, lifeline
from pilus_api.rules import Origin, Policy
from pilus_api.selectors import exists, selector
from pilus_api.settings import Settings

# Keys among endpoints; those of pods have a slash.
HOST: Final = "host"
# Has the lifelines and nothing else: what holds where a node's policy is too large and none was in force before. A node that
# lets in nobody at all could not be told to let in somebody.
FLOOR: Final = "host floor"

_HOST_LABEL: Final = Label(SOURCE_RESERVED, "host", "")
_FLOOR_LABEL: Final = Label(SOURCE_RESERVED, "host-floor", "")


class HostPolicy:
    """`labels` None: the host firewall is off, or nobody has told of this node's Node object yet. `cut`: lifelines that are not in
    force, with what cuts each. `api_server`: the URL that this agent asks."""

    def __init__(self, settings: Settings, api_server: str = "") -> None:
        self._settings = settings
        self.api_server = api_server
        self._on = settings.enable_host_firewall is not False and settings.enable_policy != "never"
        self._api_ports: frozenset[int] = frozenset()
        self._drafted: tuple[tuple[object, ...], tuple[Policy, ...]] | None = None  # what the last drafts were made of, and these
        self.labels: Labels | None = None
        self.cut: Mapping[str, str] = {}

    @property
    def enabled(self) -> bool:
        return self._settings.enable_host_firewall is not False

    @property
    def lifelines(self) -> tuple[str, ...]:
        """Those in force."""
        return tuple(name for name in self._settings.host_firewall_lifelines if name not in self.cut)

    def place(self, labels: Labels | None, api_ports: frozenset[int]) -> bool:
        """The Node object's labels, and where API servers listen; whether anything is new."""
        now = None if labels is None or not self._on else canonical((*labels, _HOST_LABEL))
        if (now, api_ports) == (self.labels, self._api_ports):
            return False
        self.labels, self._api_ports = now, api_ports
        return True

    def endpoints(self) -> dict[str, Endpoint]:
        if self.labels is None:
            return {}
        return {HOST: Endpoint(self.labels, {}, host=True), FLOOR: Endpoint((_FLOOR_LABEL,), {}, host=True)}

    def governed_by(self, policies: Iterable[Policy]) -> bool:
        labels = self.labels
        return labels is not None and any(policy.host and policy.subject.matches(labels) for policy in policies)

    def drafts(self, cut: Mapping[str, str]) -> tuple[Policy, ...]:
        """What holds on every node that has a policy. `cut`: lifelines, `all` among them for every one, with what cuts each."""
        everything = cut.get("all")
        names = self._settings.host_firewall_lifelines
        self.cut = {name: cut.get(name, everything or "") for name in names if name in cut or everything}
        of = (self.lifelines, self._api_ports)
        if self._drafted is None or self._drafted[0] != of:
            self._drafted = of, self._made()
        return self._drafted[1]

    def _made(self) -> tuple[Policy, ...]:
        tunnel = self._settings.tunnel_port if self._settings.routing_mode == "tunnel" else 0
        urls = frozenset(filter(None, (self.api_server, self._settings.k8s_api_server)))
        around = Surroundings(tunnel, self._api_ports, urls)
        origin = Origin("Builtin", "", "host-floor", "host-floor")
        floor = Policy(origin, selector(exists(SOURCE_RESERVED, "host-floor")), (True, True), (), host=True)
        return (*(lifeline(name, around) for name in self.lifelines), floor)
