"""What policy objects say: each read, kept as far as it makes sense, and put together with the others.

In: objects as they were written, namespaces, address groups. Out: policies by the name of the object they come from, with modes,
and what of them is wrong or not in force. Of what makes no sense the parts that do are in force, and the others closed. Never: who
is governed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import structlog

from pilus_agent.host_policy import HostPolicy
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_api.lifelines import cut_by
from pilus_api.policies import drafts_left, groups_of, resolve
from pilus_api.policy_doubts import policy_doubts
from pilus_api.policy_kinds import BY_SHORT
from pilus_api.policy_modes import Mode, mode_of
from pilus_api.rules import CidrGroup, GroupName, Network, Origin, Policy, Services
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)

# Of one object: a port may be one, and there may be thousands.
_MOST_DOUBTS = 10

# What holds on every node that has a policy, in place of an object.
_HOSTS = "pilus/hosts"


class PolicyObjects:
    """`held` are the objects as they were written last, by kind and key; `policies` what they mean, as of the last `resolve`."""

    def __init__(self, settings: Settings, host: HostPolicy) -> None:
        self._settings = settings
        self._host = host
        self.held: dict[str, PolicyObject] = {}
        self.policies: dict[str, list[Policy]] = {}
        self.unenforced: dict[str, tuple[str, ...]] = {}  # fields that are not in force
        self._marks: frozenset[tuple[str, int]] | None = None
        self._stale = {_HOSTS}  # what is to be put together anew
        self._drafts: dict[str, tuple[Policy, ...]] = {}
        self._host_drafts: tuple[Policy, ...] = ()
        self._spoken: dict[str, set[GroupName]] = {}  # of address groups, by those policies that speak of any
        self._about_nodes: set[str] = set()
        self._errors: dict[str, str] = {}
        self._doubts: dict[str, tuple[str, ...]] = {}
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
            for held in (self.held, self._drafts, self._spoken, self._errors, self._doubts):
                held.pop(name, None)
            self._about_nodes.discard(name)
            self._marks = None
            self._stale.add(name)
            return
        if self.held.get(name) == fact:
            return
        self.held[name] = fact
        self._marks = None
        drafts = self._drafts[name] = self._read(name, _typed(kind, fact.raw))
        if spoken := groups_of(drafts):
            self._spoken[name] = spoken
        else:
            self._spoken.pop(name, None)
        _mark(self._about_nodes, name, any(draft.host for draft in drafts))
        self._stale.add(name)

    def _read(self, name: str, raw: dict[str, Any]) -> tuple[Policy, ...]:
        nodes, cluster = self._settings.enable_node_selector_labels, self._settings.cluster_name
        drafts, error = drafts_left(raw, cluster=cluster, nodes=nodes, hosts=self._host.enabled)
        self._errors.pop(name, None)
        self._doubts.pop(name, None)
        if error:
            self._errors[name] = error
            _log.warning("a policy makes no sense", policy=name, error=error)
        elif found := [f"{path}: {what}" for path, what in islice(policy_doubts(raw), _MOST_DOUBTS)]:
            self._doubts[name] = tuple(found)
        return drafts

    def namespace(self, name: str, mode: str) -> None:
        """What a namespace says of the mode of its policies, "" for nothing."""
        if self._namespaces.get(name, "") == mode:
            return
        if mode:
            self._namespaces[name] = mode
        else:
            del self._namespaces[name]
        self._stale.update(each for each, held in self.held.items() if _namespace(held) == name)

    def group(self, name: GroupName, members: tuple[Network, ...] | None) -> None:
        """The addresses of an AddressGroup now; None: there is none of that name."""
        if self._groups.get(name) == members:
            return
        if members is None:
            del self._groups[name]
        else:
            self._groups[name] = members
        self._stale.add(_HOSTS)
        self._stale.update(each for each, spoken in self._spoken.items() if name in spoken)

    def host_moved(self) -> None:
        """What holds on every node that has a policy may be something else now."""
        self._stale.add(_HOSTS)

    def place_services(self, meant: Callable[[Services], tuple[Network, ...] | None]) -> None:
        """Ask anew for the addresses behind the Services that policies speak of."""
        named = set().union(*self._spoken.values())
        for name in named | self._groups.keys():
            if isinstance(name, Services):
                self.group(name, meant(name) if name in named else None)

    # -- together ----------------------------------------------------------------------------------------------------------

    def resolve(self) -> set[str]:
        """Put together what all of them say now. Returns the names of those that mean something else than before, and of those that
        have gone."""
        if not self._stale:
            return set()
        stale, self._stale = self._stale, set()
        for name in stale:
            if name in self.held:
                self._modes[name] = self._mode(self.held[name])
            else:
                self._modes.pop(name, None)
        # What cuts a lifeline, and whether it is enforced, may be any policy's doing.
        hosts = self._host.drafts(self._cut())
        if hosts != self._host_drafts:
            self._host_drafts = hosts
            stale.add(_HOSTS)
        return {name for name in stale if self._mean(name, self._meant(name))}

    def _meant(self, name: str) -> list[Policy]:
        drafts = self._host_drafts if name == _HOSTS else self._drafts.get(name, ())
        audit = self.audited(name)
        return [replace(policy, audit=audit) for policy in resolve(drafts, self._groups)]

    def _mean(self, name: str, policies: list[Policy]) -> bool:
        """Whether that is something new."""
        if policies == self.policies.get(name, []):
            return False
        if policies:
            fields = [field for policy in policies for field in policy.unenforced]
            fields += [field for policy in policies for rule in policy.rules for field in rule.unenforced]
            self.policies[name], self.unenforced[name] = policies, tuple(dict.fromkeys(fields))
        else:
            del self.policies[name], self.unenforced[name]
        return True

    def _cut(self) -> dict[str, str]:
        """The lifelines that policies cut which are enforced on this node, each with one of these."""
        found: dict[str, str] = {}
        for name in sorted(self._about_nodes - self._errors.keys()):
            drafts = self._drafts[name]
            if not self.audited(name) and self._host.governed_by(drafts):
                cut, _ = cut_by(self.held[name].raw)
                found |= dict.fromkeys(sorted(cut - found.keys()), str(replace(drafts[0].origin, path="")))
        return found

    def _mode(self, held: PolicyObject) -> tuple[Mode, str]:
        return mode_of(held.raw, self._namespaces.get(_namespace(held), ""), self._settings.policy_audit_mode)

    # -- looking -----------------------------------------------------------------------------------------------------------

    @property
    def marks(self) -> frozenset[tuple[str, int]]:
        """Uid and generation of every object that there is."""
        if self._marks is None:
            self._marks = frozenset((held.uid, held.generation) for held in self.held.values())
        return self._marks

    def audited(self, name: str) -> bool:
        return self._modes.get(name, (Mode.ENFORCE, ""))[0] is Mode.AUDIT

    def error(self, name: str) -> str:
        """What of it makes no sense, "" if all does."""
        return self._errors.get(name, "")

    def doubts(self, name: str) -> tuple[str, ...]:
        """What may not be meant as it is written."""
        return self._doubts.get(name, ())

    def missing(self, name: str) -> list[str]:
        """What of it is not in force as it is written."""
        troubles = [self._modes.get(name, (Mode.ENFORCE, ""))[1]]
        if name in self.held and self._host.governed_by(self.policies.get(name, ())):
            troubles.append(cut_by(self.held[name].raw)[1])
        return [*self.unenforced.get(name, ()), *filter(None, troubles)]

    def wrote(self, name: str, origin: Origin) -> bool:
        """Whether that is where a rule of this one is written."""
        return any(draft.origin.written_in == origin.written_in for draft in self._drafts.get(name, ()))

    def about_nodes(self) -> dict[str, PolicyObject]:
        """Those that speak of nodes, this one or others, by kind and key."""
        return {name: self.held[name] for name in sorted(self._about_nodes)}

    def cidr_groups(self) -> dict[str, tuple[Network, ...]]:
        return {name.name: held for name, held in self._groups.items() if isinstance(name, CidrGroup)}


def _mark(names: set[str], name: str, wanted: bool) -> None:
    if wanted:
        names.add(name)
    else:
        names.discard(name)


def _namespace(held: PolicyObject) -> str:
    return str(held.raw["metadata"].get("namespace", ""))


def _typed(kind: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a list bear neither apiVersion nor kind."""
    found = BY_SHORT[kind]
    return {**raw, "apiVersion": found.version, "kind": found.name}
