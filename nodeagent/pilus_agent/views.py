"""What the agent shows of itself: the answers of docs/agent-api.md, from the wiring's state. Changes nothing."""

import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

from pilus_agent.desired.nodes import LOCAL, NODE, POD, ROUTER
from pilus_agent.host_policy import HOST
from pilus_agent.objects import routers_of
from pilus_agent.why import Why
from pilus_agent.wiring import Wiring
from pilus_api.errors import PilusError
from pilus_api.identities import RESERVED
from pilus_api.labels import Labels
from pilus_api.live import LiveSettings

Item = dict[str, Any]

_FLAGS = ((POD, "pod"), (NODE, "node"), (ROUTER, "router"), (LOCAL, "local"))
_ACTIONS = {
    "links": "look at the CiliumNode of this node, and at the operator's log",
    "cgroup": "see docs/services.md for what a node needs",
    "audit": "look at the agent's log; no other program may own clsact on Pilus' links",
}


def _texts(labels: Labels) -> list[str]:
    return [str(label) for label in labels]


def _shown(family: int, packed: bytes) -> str:
    return str(ip_address(packed[:4] if family == 4 else packed))


class Views:
    def __init__(self, wiring: Wiring, version: str, started: float, live: LiveSettings | None = None) -> None:
        self._wiring = wiring
        self._live = live
        self._version = version
        self._started = started
        why = Why(wiring, wiring.kernel.lookup)
        self._answers: dict[str, Callable[[Mapping[str, Any]], Item]] = {
            "status": lambda _: {"item": self._status()},
            "endpoints": lambda _: {"items": self._endpoints()},
            "identities": lambda _: {"items": self._identities()},
            "ipcache": lambda _: {"items": self._ipcache()},
            "nodes": lambda _: {"items": self._nodes()},
            "policies": lambda _: {
                "items": wiring.policy.views({key: end.attachment.number for key, end in wiring.endpoints.items()})
            },
            "policy": lambda asked: {"item": self._policy(asked)},
            "services": lambda _: {"items": wiring.services.views()},
            "why": why.answer,
            "nearest": why.nearest,
        }

    def answer(self, asked: Mapping[str, Any]) -> Item:
        """Raises PilusError for what can't be asked."""
        answer = self._answers.get(str(asked.get("get")))
        if answer is None:
            raise PilusError(f"nothing is called {str(asked.get('get'))!r}; there are {', '.join(sorted(self._answers))}")
        return answer(asked)

    def _status(self) -> Item:
        wiring = self._wiring
        missing = sorted(wiring.needed - wiring.facts.synced)
        checks = [
            {
                "name": "api-server",
                "state": "failed" if missing else "ok",
                "message": f"not heard in full: {', '.join(missing)}" if missing else "everything has been heard",
                "action": "look at the agent's log; are the CRDs applied, and is its token valid?" if missing else "",
            },
            {
                "name": "pods",
                "state": "ok" if wiring.ready else "failed",
                "message": f"{len(wiring.endpoints)} connected" if wiring.ready else "no pod can be made yet",
                "action": "" if wiring.ready else "see the other checks",
            },
        ]
        checks += [
            {
                "name": trouble.what,
                "state": "degraded",
                "message": trouble.message,
                "action": _ACTIONS.get(trouble.what, "look at the agent's log; a full table needs a larger size"),
            }
            for trouble in wiring.trouble.values()
        ]
        checks += wiring.policy.checks()
        checks += [self._host_firewall(), *self._settings()]
        maps = [
            {"name": name, "entries": len(tracker.held), "max_entries": wiring.tables.layouts[name].max_entries}
            for name, tracker in wiring.tables.trackers.items()
            if name != "settings"
        ]
        return {
            "node": wiring.node,
            "version": self._version,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "routing_mode": wiring.settings.routing_mode,
            "cluster": wiring.settings.cluster_name,
            "checks": checks,
            "maps": maps,
        }

    def _host_firewall(self) -> Item:
        """Whether this node's own stack has a policy, and which lifelines no policy has cut."""
        host, own = self._wiring.policy.host, self._wiring.desired.host
        item: Item = {"name": "host firewall", "state": "ok", "message": "no policy is about this node", "action": ""}
        if not host.enabled:
            return item | {"message": "off (enable-host-firewall)"}
        if own is None:
            return item
        enforced = [word for word, on in (("ingress", own.ingress_enforced), ("egress", own.egress_enforced)) if on]
        item["message"] = f"{' and '.join(enforced) or 'nothing'} enforced{', audit' if own.audit else ''}"
        item["message"] += f"; lifelines: {', '.join(host.lifelines) or 'none'}"
        if host.cut:
            item["message"] += f"; cut: {', '.join(f'{name} (by {policy})' for name, policy in host.cut.items())}"
        if not self._wiring.desired.host_held:
            item |= {"state": "degraded", "message": f"not in the kernel yet; {item['message']}", "action": "see the other checks"}
        return item

    def _settings(self) -> list[Item]:
        """What of the ConfigMap is not so yet."""
        if self._live is None:
            return []
        state, message, action = "ok", "as the ConfigMap has them", ""
        if self._live.problem:
            state, message = "degraded", f"the changed settings are not followed: {self._live.problem}"
            action = "correct the ConfigMap pilus-config; until then the former settings hold"
        elif self._live.waiting:
            state, message = "degraded", f"changed, and waiting for a restart: {', '.join(self._live.waiting)}"
            action = "kubectl --namespace kube-system rollout restart daemonset/pilus"
        return [{"name": "settings", "state": state, "message": message, "action": action}]

    def _endpoints(self) -> list[Item]:
        found = []
        for endpoint in sorted(self._wiring.endpoints.values(), key=lambda endpoint: endpoint.attachment.number):
            attachment = endpoint.attachment
            addresses = {address.version: str(address) for address in attachment.addresses}
            found.append(
                {
                    "number": attachment.number,
                    "namespace": attachment.namespace,
                    "name": attachment.pod,
                    "state": str(endpoint.state),
                    "identity": endpoint.identity,
                    "labels": _texts(self._wiring.labels_of(attachment)),
                    "ipv4": addresses.get(4),
                    "ipv6": addresses.get(6),
                    "interface": attachment.link,
                    "ingress_enforced": endpoint.ingress_enforced,
                    "egress_enforced": endpoint.egress_enforced,
                    "policy": endpoint.policy.hex(),
                    "policy_number": self._wiring.policy.number(endpoint.policy),
                    "audit": bool(endpoint.audit),
                    "container_id": attachment.container,
                }
            )
        return found

    def _identities(self) -> list[Item]:
        wiring = self._wiring
        known = wiring.tables.trackers["identities"].held
        layout = wiring.tables.layouts["identities"].key
        uses: dict[int, int] = {}
        for endpoint in wiring.endpoints.values():
            if endpoint.identity is not None:
                uses[endpoint.identity] = uses.get(endpoint.identity, 0) + 1
        return [
            {
                "identity": number,
                "labels": _texts(labels),
                "reserved": number in RESERVED,
                "endpoints": uses.get(number, 0),
                "known": layout.encode(int(number)) in known,
            }
            for number, labels in sorted(wiring.identities.labels.items())
        ]

    def _ipcache(self) -> list[Item]:
        wiring = self._wiring
        names = {str(remote.address): remote.name for slice_ in wiring.facts.slices.values() for remote in slice_.endpoints}
        for endpoint in wiring.endpoints.values():
            attachment = endpoint.attachment
            names |= {str(address): f"{attachment.namespace}/{attachment.pod}" for address in attachment.addresses}
        for node in wiring.facts.nodes.values():
            names |= {str(address): f"node {node.name}" for address in (*node.addresses, *node.routers)}
        return [self._address(key, value, names) for key, value in wiring.ipcache.rows.values()]

    def _address(self, key: Mapping[str, Any], value: Mapping[str, Any], names: Mapping[str, str]) -> Item:
        address = _shown(key["family"], key["address"])
        flags = value["flags"]
        tunnel = _shown(value["tunnel_family"], value["tunnel"]) if value.get("tunnel_family") else None
        return {
            "prefix": f"{address}/{key['length'] - 32}",
            "identity": value["identity"],
            "labels": _texts(self._wiring.identities.labels.get(value["identity"], ())),
            "tunnel": tunnel,
            "flags": [name for flag, name in _FLAGS if flags & flag],
            "name": names.get(address),
        }

    def _nodes(self) -> list[Item]:
        return [
            {
                "name": node.name,
                "local": node.name == self._wiring.node,
                "addresses": [str(address) for address in node.addresses],
                "routers": [str(address) for address in routers_of(node.ranges)],
                "ranges": [str(network) for network in node.ranges],
            }
            for node in sorted(self._wiring.facts.nodes.values(), key=lambda node: node.name)
        ]

    def _policy(self, asked: Mapping[str, Any]) -> Item:
        number = asked.get("endpoint")
        if number == HOST:
            return {"endpoint": number, **self._wiring.policy.explain(HOST, self._wiring.identities.labels)}
        for key, endpoint in self._wiring.endpoints.items():
            if endpoint.attachment.number == number:
                return {"endpoint": number, **self._wiring.policy.explain(key, self._wiring.identities.labels)}
        raise PilusError(f"this node has no endpoint {number!r}")
