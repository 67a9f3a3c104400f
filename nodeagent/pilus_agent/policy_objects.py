"""What policy objects say: each read, kept as far as it makes sense, and put together with the others.

In: objects as they were written, namespaces, address groups. Out: policies by the name of the object they come from, with modes,
and what of them is wrong or not in force. What makes no sense leaves what it meant before in force. Never: who is governed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from pilus_agent.host_policy import HostPolicy
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_api.errors import InvalidError
from pilus_api.lifelines import cut_by
from pilus_api.policies import Draft, drafts_of, groups_of, resolve
from pilus_api.policy_kinds import BY_SHORT
from pilus_api.policy_modes import Mode, mode_of
from pilus_api.rules import CidrGroup, GroupName, Network, Origin, Policy, Services
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)

# What holds on every node that has a policy, in place of an object.
_HOSTS = "pilus/hosts"


class PolicyObjects:
    """`held` are the objects as they were written last, by kind and key; `policies` what those mean that make sense, as of the last
    `resolve`. `changed`: that is behind."""

    def __init__(self, settings: Settings, host: HostPolicy) -> None:
        self._settings = settings
        self._host = host
        self.held: dict[str, PolicyObject] = {}
        self.policies: dict[str, list[Policy]] = {}
        self.unenforced: dict[str, tuple[str, ...]] = {}  # fields that are not in force
        self.changed = True
        self._accepted: dict[str, PolicyObject] = {}  # those whose drafts are in force: what is said later may make no sense
        self._drafts: dict[str, tuple[Draft, ...]] = {}
        self._spoken: dict[str, set[GroupName]] = {}  # of address groups, by those policies that speak of any
        self._errors: dict[str, str] = {}
        self._namespaces: dict[str, str] = {}  # what they say of the mode of their policies
        self._modes: dict[str, tuple[Mode, str]] = {}
        self._groups: dict[GroupName, tuple[Network, ...]] = {}

    # -- facts -------------------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, fact: Any) -> None:
        """A policy object, or a group's addresses; None: it has gone."""
        if kind == "cidrgroups":
            self.group(CidrGroup(key), fact)
        else:
            self._put_policy(kind, key, fact)

    def _put_policy(self, kind: str, key: str, fact: PolicyObject | None) -> None:
        if kind == "knp" and not self._settings.enable_k8s_networkpolicy:
            return
        name = f"{kind}/{key}"
        if fact is None:
            for held in (self.held, self._accepted, self._drafts, self._spoken, self._errors, self.unenforced):
                held.pop(name, None)
            self.changed = True
            return
        if self.held.get(name) == fact:
            return
        self.held[name] = fact
        try:
            nodes, cluster = self._settings.enable_node_selector_labels, self._settings.cluster_name
            drafts = drafts_of(_typed(kind, fact.raw), cluster=cluster, nodes=nodes, hosts=self._host.enabled)
        except InvalidError as error:
            _log.warning("a policy makes no sense; what it said before stays in force", policy=name, error=str(error))
            self._errors[name] = str(error)
            return
        self._errors.pop(name, None)
        self._accepted[name] = fact
        self._drafts[name] = drafts
        if spoken := groups_of(drafts):
            self._spoken[name] = spoken
        else:
            self._spoken.pop(name, None)
        self.changed = True

    def namespace(self, name: str, mode: str) -> None:
        """What a namespace says of the mode of its policies, "" for nothing."""
        if self._namespaces.get(name, "") == mode:
            return
        if mode:
            self._namespaces[name] = mode
        else:
            del self._namespaces[name]
        self.changed = True

    def group(self, name: GroupName, members: tuple[Network, ...] | None) -> None:
        """The addresses of an AddressGroup now; None: there is none of that name."""
        if self._groups.get(name) == members:
            return
        if members is None:
            del self._groups[name]
        else:
            self._groups[name] = members
        self.changed = True

    def place_services(self, meant: Callable[[Services], tuple[Network, ...] | None]) -> None:
        """Ask anew for the addresses behind the Services that policies speak of."""
        named = set().union(*self._spoken.values())
        for name in named | self._groups.keys():
            if isinstance(name, Services):
                self.group(name, meant(name) if name in named else None)

    # -- together ----------------------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Put together what all of them say now."""
        self.changed = False
        self._modes = {name: self._mode(held) for name, held in self._accepted.items()}
        drafted = {**self._drafts, _HOSTS: self._host.drafts(self._cut())}
        names = {_key(draft.policy.origin): name for name, drafts in drafted.items() for draft in drafts}
        self.policies = {}
        for policy in resolve((draft for drafts in drafted.values() for draft in drafts), self._groups):
            name = names[_key(policy.origin)]
            self.policies.setdefault(name, []).append(replace(policy, audit=True) if self.audited(name) else policy)
        for name, policies in self.policies.items():
            fields = [field for policy in policies for field in policy.unenforced]
            fields += [field for policy in policies for rule in policy.rules for field in rule.unenforced]
            self.unenforced[name] = tuple(dict.fromkeys(fields))

    def _cut(self) -> dict[str, str]:
        """The lifelines that policies cut which are enforced on this node, each with one of these."""
        found: dict[str, str] = {}
        for name, drafts in self._drafts.items():
            if not self.audited(name) and self._host.governed_by(draft.policy for draft in drafts):
                cut, _ = cut_by(self._accepted[name].raw)
                found |= dict.fromkeys(sorted(cut - found.keys()), str(replace(drafts[0].policy.origin, path="")))
        return found

    def _mode(self, held: PolicyObject) -> tuple[Mode, str]:
        namespace = self._namespaces.get(held.raw["metadata"].get("namespace", ""), "")
        return mode_of(held.raw, namespace, self._settings.policy_audit_mode)

    # -- looking -----------------------------------------------------------------------------------------------------------

    def audited(self, name: str) -> bool:
        return self._modes.get(name, (Mode.ENFORCE, ""))[0] is Mode.AUDIT

    def error(self, name: str) -> str:
        """Why it means nothing, "" if it makes sense."""
        return self._errors.get(name, "")

    def missing(self, name: str) -> list[str]:
        """What of it is not in force as it is written."""
        troubles = [self._modes.get(name, (Mode.ENFORCE, ""))[1]]
        if name in self._accepted and self._host.governed_by(self.policies.get(name, ())):
            troubles.append(cut_by(self._accepted[name].raw)[1])
        return [*self.unenforced.get(name, ()), *filter(None, troubles)]

    def wrote(self, name: str, origin: Origin) -> bool:
        """Whether that is where a rule of this one is written."""
        return any(_key(draft.policy.origin) == _key(origin) for draft in self._drafts.get(name, ()))

    def about_nodes(self) -> dict[str, PolicyObject]:
        """Those that speak of nodes, this one or others, by kind and key."""
        about = (name for name, drafts in self._drafts.items() if any(draft.policy.host for draft in drafts))
        return {name: self._accepted[name] for name in sorted(about)}

    def cidr_groups(self) -> dict[str, tuple[Network, ...]]:
        return {name.name: held for name, held in self._groups.items() if isinstance(name, CidrGroup)}


def _key(origin: Origin) -> tuple[str, str, str]:
    return origin.kind, origin.namespace, origin.name


def _typed(kind: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a list bear neither apiVersion nor kind."""
    found = BY_SHORT[kind]
    return {**raw, "apiVersion": found.version, "kind": found.name}
