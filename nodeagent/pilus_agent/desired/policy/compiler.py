"""The compiler: policies, identities and endpoints to tables, in proportion to what changed.

In: facts, one by one, in any order and as often as they come. Out: `compiled()`, which depends on what is there now and never on
the road to it. Never: numbers, writes, the kernel. A policy is put under the name of what it comes from (an object's uid), so that
what comes again replaces what was there.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from pilus_agent.desired.policy.direction import NO_NAMES, LiveDirection
from pilus_agent.desired.policy.ruleset import RuleSet, digest, ingress_names, resolve, rule_set, set_name
from pilus_agent.desired.policy.tables import (
    MOST_ROWS,
    ROW_BUDGET,
    Compiled,
    CompiledPolicy,
    Endpoint,
    EndpointPolicy,
    NamedPorts,
    PolicyName,
    TooLarge,
    TooMuchError,
)
from pilus_agent.desired.selectors import SelectorIndex
from pilus_api.identities import Identity
from pilus_api.labels import Labels
from pilus_api.policy_together import TooMuchTogetherError, apart, together
from pilus_api.rules import Direction, Policy
from pilus_api.selectors import Selector


class _LivePolicy:
    """A rule set in use, and its tables. `refused`: why there are none."""

    def __init__(
        self, rules: RuleSet, identities: SelectorIndex[Identity], named_ports: Mapping[Identity, NamedPorts], refused: str = ""
    ) -> None:
        self.rules = rules
        self.refused = refused
        self.endpoints: set[str] = set()
        self.unresolved = rules.unresolved()
        # Without any: far too large, which it stays until its rules are others.
        self.directions: tuple[LiveDirection, ...] = ()
        self.selectors: frozenset[Selector] = frozenset()
        if refused:
            return
        with suppress(TooMuchError):
            made = LiveDirection(rules, Direction.INGRESS), LiveDirection(rules, Direction.EGRESS)
            for direction in made:
                direction.fill(identities, named_ports)
            self.directions = made
        self.selectors = frozenset(selector for direction in rules.directions for selector, _ in direction.by_selector)

    def refresh(self, identity: Identity, selectors: Iterable[Selector] | None, names: NamedPorts) -> None:
        """One identity, with the selectors that select it now; None: it is gone."""
        try:
            for direction in self.directions:
                direction.refresh(identity, selectors, names)
        except TooMuchError:
            self.directions = ()

    def published(self, budget: int) -> CompiledPolicy | TooLarge:
        if not self.directions:
            return TooLarge(self.rules.name, MOST_ROWS, budget, self.rules.origins, self.refused)
        rows = sum(live.rows for live in self.directions)
        if rows > budget:
            return TooLarge(self.rules.name, rows, budget, self.rules.origins)
        ingress, egress = (live.tables() for live in self.directions)
        return CompiledPolicy(self.rules.name, self.rules.origins, (ingress, egress), rows, self.unresolved, self.rules.closers)


def _together(policies: Sequence[Policy]) -> tuple[tuple[Policy, ...], str]:
    """What they mean together, and why that has no tables, if so: then what stands is what is told of them."""
    try:
        return together(policies), ""
    except TooMuchTogetherError as error:
        return apart(policies), str(error)


class PolicyCompiler:
    """Put and drop what is known; ask for all that follows from it."""

    def __init__(self, budget: int = ROW_BUDGET) -> None:
        self._budget = budget
        self._identities: SelectorIndex[Identity] = SelectorIndex()
        self._named_ports: dict[Identity, NamedPorts] = {}
        self._subjects: SelectorIndex[str] = SelectorIndex()
        self._endpoints: dict[str, Endpoint] = {}
        self._hosts: set[str] = set()  # of the endpoints those that are no pods
        self._sources: dict[str, tuple[Policy, ...]] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        # By subject and content: one policy object may come from two sources, so how often is counted.
        self._by_subject: dict[Selector, dict[bytes, int]] = {}
        self._by_digest: dict[bytes, tuple[Policy, int]] = {}
        self._ingress_names: dict[bytes, frozenset[str]] = {}
        self._live: dict[PolicyName, _LivePolicy] = {}
        self._by_selector: dict[Selector, set[PolicyName]] = {}
        # What holds, and what would hold without audit mode, where that is another.
        self._of_endpoint: dict[str, tuple[PolicyName | None, PolicyName | None]] = {}
        self._published: dict[PolicyName, CompiledPolicy | TooLarge] = {}
        # Since the last compile: endpoints to look at (of the second the bits; who takes over a bit is in the first), and
        # identities with the selectors that selected them before.
        self._changed_endpoints: set[str] = set()
        self._changed_subjects = 0
        self._changed_identities: dict[Identity, set[Selector]] = {}

    def put_policies(self, source: str, policies: Iterable[Policy]) -> None:
        """What this source declares now, all of it."""
        now = tuple(policies)
        before = self._sources.get(source, ())
        if now == before:
            return
        digests = tuple(digest(policy) for policy in now)
        for policy, content in zip(now, digests, strict=True):
            contents = self._by_subject.setdefault(policy.subject, {})
            contents[content] = contents.get(content, 0) + 1
            self._by_digest[content] = policy, self._by_digest.get(content, (policy, 0))[1] + 1
            if content not in self._ingress_names:
                self._ingress_names[content] = ingress_names(policy)
        for policy, content in zip(before, self._digests.get(source, ()), strict=True):
            self._forget_policy(policy.subject, content)
        for policy in (*before, *now):
            self._changed_subjects |= self._subjects.select(policy.subject)
        for policy in before:
            if policy.subject not in self._by_subject:
                self._subjects.forget(policy.subject)
        if now:
            self._sources[source], self._digests[source] = now, digests
        else:
            self._sources.pop(source, None)
            self._digests.pop(source, None)

    def drop_policies(self, source: str) -> None:
        self.put_policies(source, ())

    def put_identity(self, identity: Identity, labels: Labels, named_ports: NamedPorts = NO_NAMES) -> None:
        """`named_ports`: what all its pods call their ports, together."""
        if self._identities.labels(identity) == labels and self._named_ports.get(identity, NO_NAMES) == named_ports:
            return
        self._note(identity)
        self._identities.put(identity, labels)
        if named_ports:
            self._named_ports[identity] = named_ports
        else:
            self._named_ports.pop(identity, None)
        self._note(identity)

    def drop_identity(self, identity: Identity) -> None:
        if identity in self._identities:
            self._note(identity)
            self._identities.remove(identity)
            self._named_ports.pop(identity, None)

    def put_endpoint(self, name: str, endpoint: Endpoint) -> None:
        if self._endpoints.get(name) != endpoint:
            self._endpoints[name] = endpoint
            self._subjects.put(name, endpoint.labels)
            self._changed_endpoints.add(name)
            if endpoint.host:
                self._hosts.add(name)
            else:
                self._hosts.discard(name)

    def drop_endpoint(self, name: str) -> None:
        if self._endpoints.pop(name, None) is not None:
            self._subjects.remove(name)
            self._changed_endpoints.add(name)
            self._hosts.discard(name)

    def compiled(self) -> Compiled:
        """All that follows from what is known now."""
        fresh = self._assign_endpoints()
        touched = self._refresh_identities(fresh) | fresh
        for name in touched & self._live.keys():
            self._published[name] = self._live[name].published(self._budget)
        compiled = {name: found for name, found in self._published.items() if isinstance(found, CompiledPolicy)}
        too_large = {name: found for name, found in self._published.items() if isinstance(found, TooLarge)}
        endpoints = {name: self._endpoint_policy(name) for name in self._endpoints}
        return Compiled(endpoints, compiled, too_large)

    def governed(self, policies: Iterable[Policy]) -> int:
        """The endpoints that are pods which any of these governs, in force or not, as a set that `endpoints` reads."""
        found = 0
        for policy in policies:
            if policy.host:
                continue
            found |= self._subjects.select(policy.subject)
            if policy.subject not in self._by_subject:
                self._subjects.forget(policy.subject)
        for name in self._hosts:
            found &= ~self._subjects.bit(name)
        return found

    def endpoints(self, governed: int) -> list[str]:
        return self._subjects.members(governed)

    def _note(self, identity: Identity) -> None:
        self._changed_identities.setdefault(identity, set()).update(self._identities.selectors_of(identity))

    def _forget_policy(self, subject: Selector, content: bytes) -> None:
        contents = self._by_subject[subject]
        contents[content] -= 1
        if not contents[content]:
            del contents[content]
        if not contents:
            del self._by_subject[subject]
        policy, uses = self._by_digest[content]
        if uses > 1:
            self._by_digest[content] = policy, uses - 1
        else:
            del self._by_digest[content], self._ingress_names[content]

    def _assign_endpoints(self) -> set[PolicyName]:
        """Every changed endpoint to its rule set; what nobody has any more goes. Returns the rule sets that are new."""
        fresh: set[PolicyName] = set()
        left: set[PolicyName] = set()
        self._changed_endpoints.update(self._subjects.members(self._changed_subjects))
        self._changed_subjects = 0
        for name in self._changed_endpoints:
            for before in self._of_endpoint.pop(name, ()):
                if before is not None:
                    self._live[before].endpoints.discard(name)
                    left.add(before)
            now = self._rule_sets_of(name, fresh)
            if any(now):
                self._of_endpoint[name] = now
            for policy in now:
                if policy is not None:
                    self._live[policy].endpoints.add(name)
        self._changed_endpoints.clear()
        for policy in left:
            if not self._live[policy].endpoints:
                self._retire(policy)
                fresh.discard(policy)
        return fresh

    def _rule_sets_of(self, endpoint: str, fresh: set[PolicyName]) -> tuple[PolicyName | None, PolicyName | None]:
        found = self._endpoints.get(endpoint)
        if found is None:
            return None, None
        governing = {each for subject in self._subjects.selectors_of(endpoint) for each in self._by_subject.get(subject, {})}
        digests = sorted(each for each in governing if self._by_digest[each][0].host == found.host)
        enforced = [each for each in digests if not self._by_digest[each][0].audit]
        audited = self._rule_set(digests, found, fresh) if len(enforced) < len(digests) else None
        return self._rule_set(enforced, found, fresh) if enforced else None, audited

    def _rule_set(self, digests: list[bytes], found: Endpoint, fresh: set[PolicyName]) -> PolicyName:
        own_ports = resolve((name for each in digests for name in self._ingress_names[each]), found.named_ports)
        name = set_name(digests, own_ports)
        if name not in self._live:
            policies, refused = _together([self._by_digest[each][0] for each in digests])
            live = _LivePolicy(rule_set(name, policies, own_ports), self._identities, self._named_ports, refused)
            for selector in live.selectors:
                self._by_selector.setdefault(selector, set()).add(name)
            self._live[name] = live
            fresh.add(name)
        return name

    def _retire(self, policy: PolicyName) -> None:
        for selector in self._live.pop(policy).selectors:
            using = self._by_selector[selector]
            using.discard(policy)
            if not using:
                del self._by_selector[selector]
                self._identities.forget(selector)
        self._published.pop(policy, None)

    def _refresh_identities(self, fresh: set[PolicyName]) -> set[PolicyName]:
        """Every changed identity in every rule set that selects it or did; those just filled have it already."""
        touched: set[PolicyName] = set()
        if len(fresh) == len(self._live):
            self._changed_identities.clear()
            return touched
        by_name = {name for name, live in self._live.items() if any(each.names_for_anyone for each in live.directions)}
        for identity, selectors in self._changed_identities.items():
            known = identity in self._identities
            now = self._identities.selectors_of(identity) if known else None
            policies = set(by_name).union(*(self._by_selector.get(each, ()) for each in (*selectors, *(now or ()))))
            names = self._named_ports.get(identity, NO_NAMES)
            for policy in policies - fresh:
                touched.add(policy)
                self._live[policy].refresh(identity, now, names)
        self._changed_identities.clear()
        return touched

    def _endpoint_policy(self, endpoint: str) -> EndpointPolicy:
        name, audit = self._of_endpoint.get(endpoint, (None, None))
        if name is None:
            return EndpointPolicy(None, ingress_enforced=False, egress_enforced=False, audit=audit)
        ingress, egress = (rules.enforced for rules in self._live[name].rules.directions)
        return EndpointPolicy(name, ingress, egress, audit)


def compile_policies(
    policies: Iterable[Policy],
    identities: Mapping[Identity, Labels],
    endpoints: Mapping[str, Endpoint],
    named_ports: Mapping[Identity, NamedPorts] | None = None,
    budget: int = ROW_BUDGET,
) -> Compiled:
    """Everything at once, from nothing."""
    compiler = PolicyCompiler(budget)
    for identity, labels in identities.items():
        compiler.put_identity(identity, labels, (named_ports or {}).get(identity, NO_NAMES))
    for name, endpoint in endpoints.items():
        compiler.put_endpoint(name, endpoint)
    compiler.put_policies("all", policies)
    return compiler.compiled()
