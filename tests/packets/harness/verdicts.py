"""What must come of a trial: by the evaluator of the property tests, which knows no tables; and whether the kernel's event says so.

A packet that two policies are asked about passes if both let it; the event names the first that does not, else the last that was
asked and might have refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.packets.harness.drawn import Drawn, Said
from tests.packets.harness.ways import Question, Trial

from pilus_api.rules import Direction

NOBODY_DECIDES: Final = Said(True, frozenset())


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason`: why it ends, or empty. `named`: whose policy the event names, and `said` what is said of that; None: nobody's."""

    reason: str
    named: Question | None = None
    said: Said = NOBODY_DECIDES
    audited: bool = False


def verdict(drawn: Drawn, trial: Trial) -> Verdict:
    if trial.refused:
        return Verdict(trial.refused)
    passed = Verdict(trial.barred)
    for question in trial.questions:
        said = _said(drawn, question, audited=False)
        if said is None:
            return Verdict("UNKNOWN_IDENTITY", question)
        if not said.allowed:
            return Verdict("POLICY_DENY" if said.reasons else "POLICY", question, said)
        if drawn.closed(question.name, question.probe.direction):
            passed = Verdict(trial.barred, question, said)
    # What has no way out ends before anybody asks what audited policies would say.
    for question in trial.questions if drawn.audits and not trial.barred else ():
        said = _said(drawn, question, audited=True)
        if said is None or not said.allowed:
            return Verdict("", question, said or NOBODY_DECIDES, audited=True)
    return passed


def _said(drawn: Drawn, question: Question, *, audited: bool) -> Said | None:
    """None: whoever it is, policies don't know him, and refuse where they refuse anything."""
    if question.probe.identity not in drawn.known:
        return None if drawn.closed(question.name, question.probe.direction, audited=audited) else NOBODY_DECIDES
    return drawn.said(question.name, question.probe, audited=audited)


def agrees(drawn: Drawn, trial: Trial, expected: Verdict, event: Mapping[str, Any]) -> None:
    """The event is what the evaluator says, and the rule that it names is one that decided."""
    shown = (trial.questions, event, expected)
    assert event["reason"] == (drawn.node.reason(expected.reason) if expected.reason else 0), shown
    for question in trial.questions[:1]:
        ingress = question.probe.direction is Direction.INGRESS
        if not trial.refused:
            assert event["source_identity" if ingress else "destination_identity"] == question.probe.identity, shown
    assert event["audited"] == expected.audited, shown
    if expected.named is None:
        assert (event["policy"], event["rule"]) == (0, 0), shown
        return
    assert event["direction"] == expected.named.probe.direction, shown
    row = drawn.applied(expected.named.name)
    policy = row.audit if expected.audited else row.policy
    assert policy
    if expected.reason != "UNKNOWN_IDENTITY":
        assert event["policy"] == policy, shown
    if expected.said.reasons:
        assert drawn.reason(policy, event["rule"]) in expected.said.reasons, shown
    else:
        assert event["rule"] == 0, shown
