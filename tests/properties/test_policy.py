"""The compiler against a naive evaluator, and the same result on every road to a state."""

import random
from collections.abc import Callable, Iterable
from operator import methodcaller

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import ROADS, WORLDS
from tests.properties.oracle import Probe, Truth, World, governing_policies, truth
from tests.properties.worlds import probe, worlds

from pilus_agent.desired.policy.answers import Decision, Precedence
from pilus_agent.desired.policy.compiler import PolicyCompiler, compile_policies
from pilus_agent.desired.policy.explain import explain
from pilus_agent.desired.policy.porttable import PortTable
from pilus_agent.desired.policy.tables import Compiled, DirectionTables, PolicyName
from pilus_api.identities import HOST
from pilus_api.rules import AddressPeer, Direction

PROBES = 200

Step = Callable[[PolicyCompiler], None]


def check(world: World, compiled: Compiled, name: str, probe: Probe) -> None:
    """One packet: allowed or not as the rules have it, and for a reason that is one."""
    endpoint, applied = world.endpoints[name], compiled.endpoints[name]
    enforced = applied.ingress_enforced if probe.direction is Direction.INGRESS else applied.egress_enforced
    answers(compiled, applied.policy, truth(world, endpoint, probe), probe, enforced=enforced)
    assert (applied.audit is not None) == any(policy.audit for policy in governing_policies(world, endpoint))
    if applied.audit is not None:
        answers(compiled, applied.audit, truth(world, endpoint, probe, audited=True), probe, enforced=True)


def answers(compiled: Compiled, name: PolicyName | None, expected: Truth, probe: Probe, *, enforced: bool) -> None:
    if name is None:
        assert expected.allowed
        assert not enforced
        return
    policy = compiled.policies[name]
    found = explain(policy, probe.direction, probe.identity, probe.address, probe.inside, probe.protocol, probe.port)
    assert (found.decision is Decision.ALLOW) == expected.allowed
    assert enforced or found.decision is Decision.ALLOW
    if expected.rules:
        assert found.rule in expected.rules
    else:
        assert found.rule is None
        let_in = probe.direction is Direction.INGRESS and probe.identity == HOST
        assert found.precedence == (Precedence.HOST if let_in else Precedence.NONE)


@WORLDS
@given(world=worlds(), seed=st.integers(0, 2**16))
def test_the_tables_answer_as_the_rules_mean(world: World, seed: int) -> None:
    compiled = compile_policies(world.policies, world.identities, world.endpoints, world.named_ports)
    chance = random.Random(seed)  # noqa: S311 - probes, not a secret
    for name in world.endpoints:
        for _ in range(PROBES):
            check(world, compiled, name, probe(world, chance))


def putting(world: World) -> list[Step]:
    """A step for each fact of a world."""
    names = world.named_ports
    return [
        *(methodcaller("put_identity", each, labels, names.get(each, {})) for each, labels in world.identities.items()),
        *(methodcaller("put_policies", policy.origin.name, (policy,)) for policy in world.policies),
        *(methodcaller("put_endpoint", name, endpoint) for name, endpoint in world.endpoints.items()),
    ]


def dropping(world: World, kept: World) -> list[Step]:
    """A step for each fact that the other world does not have."""
    declared, still = ({policy.origin.name for policy in each.policies} for each in (world, kept))
    return [
        *(methodcaller("drop_identity", each) for each in world.identities.keys() - kept.identities.keys()),
        *(methodcaller("drop_policies", name) for name in declared - still),
        *(methodcaller("drop_endpoint", name) for name in world.endpoints.keys() - kept.endpoints.keys()),
    ]


def squashed(compiler: PolicyCompiler, steps: Iterable[Step]) -> Compiled:
    for step in steps:
        step(compiler)
    return compiler.compiled()


def split(compiler: PolicyCompiler, steps: Iterable[Step]) -> Compiled:
    for step in steps:
        step(compiler)
        compiler.compiled()
    return compiler.compiled()


@pytest.mark.parametrize("road", [squashed, split], ids=["squashed", "split"])
@ROADS
@given(before=worlds(), world=worlds(), seed=st.integers(0, 2**16))
def test_the_result_does_not_depend_on_the_road(
    road: Callable[[PolicyCompiler, Iterable[Step]], Compiled], before: World, world: World, seed: int
) -> None:
    straight = squashed(PolicyCompiler(), putting(world))
    steps = putting(world)
    assert road(PolicyCompiler(), reversed(steps)) == straight
    assert road(PolicyCompiler(), [step for step in steps for _ in range(2)]) == straight
    shuffled = list(steps)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - an order, not a secret
    assert road(PolicyCompiler(), shuffled) == straight

    # From another world, its facts gone before, after or among the new ones.
    compiler = PolicyCompiler()
    squashed(compiler, putting(before))
    steps = putting(world) + dropping(before, world)
    random.Random(seed).shuffle(steps)  # noqa: S311
    assert road(compiler, steps) == straight

    # There and back, and restarted in the middle: all of it told again to one that knows half.
    compiler = PolicyCompiler()
    squashed(compiler, shuffled)
    road(compiler, putting(before) + dropping(world, before))
    assert road(compiler, putting(world) + dropping(before, world)) == straight
    compiler = PolicyCompiler()
    road(compiler, shuffled[: len(shuffled) // 2])
    assert road(compiler, putting(world)) == straight


@ROADS
@given(world=worlds())
def test_rows_are_bounded_by_what_is_there(world: World) -> None:
    compiled = compile_policies(world.policies, world.identities, world.endpoints, world.named_ports)
    for policy in compiled.policies.values():
        rows = sum(len(table.rows) for tables in policy.directions for table in _distinct(tables).values())
        for direction, tables in zip(Direction, policy.directions, strict=True):
            assert len(tables.peers) <= len(world.identities)
            rules = [rule for each in world.policies for rule in each.rules if rule.direction is direction]
            prefixes = {
                network
                for rule in rules
                for peer in rule.peers or ()
                if isinstance(peer, AddressPeer)
                for network in (peer.prefix, *peer.excepted)
            }
            assert len(tables.cidrs) <= 2 * len(prefixes)
            rows += len(tables.peers) + len(tables.cidrs)
        assert policy.rows == rows


def _distinct(tables: DirectionTables) -> dict[bytes, PortTable]:
    classes = (tables.default, *tables.peers.values(), *tables.cidrs.values())
    return {each.table.name: each.table for each in classes}
