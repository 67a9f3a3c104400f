"""Numbers stay while the kernel has them, and do not come back before the counter wraps."""

from pilus_agent.bind.policy import LAST_NUMBER, number, recognise_tables
from pilus_agent.desired.policy.answers import Precedence
from pilus_agent.desired.policy.porttable import EVERY_PORT, HOST_TABLE, Grant, build

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def test_from_nothing_numbers_follow_the_names() -> None:
    found = number([C, A, B, A], {})
    assert found.by_name == {A: 1, B: 2, C: 3}
    assert found.last == 3


def test_what_the_kernel_holds_keeps_its_number() -> None:
    found = number([A, B], {B: 7, C: 9})
    assert found.by_name == {A: 10, B: 7}


def test_a_number_that_was_given_is_not_given_again() -> None:
    first = number([A], {})
    second = number([B], {}, first.last)
    assert second.by_name == {B: 2}


def test_at_the_end_it_starts_over_past_zero_and_past_what_is_held() -> None:
    found = number([A, B], {C: 1}, LAST_NUMBER - 1)
    assert found.by_name == {A: LAST_NUMBER, B: 2}
    assert found.last == 2


def test_tables_are_recognised_by_their_rows() -> None:
    everything = build([Grant(1, Precedence.ALLOW, (EVERY_PORT,))], default_deny=True)
    held = recognise_tables({9: reversed(everything.rows), 4: everything.rows, 5: HOST_TABLE.rows})
    assert held == {everything.name: 4, HOST_TABLE.name: 5}
