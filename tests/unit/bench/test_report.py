"""What a run says: the table, the summary, and the part of a page that it fills in."""

from pathlib import Path

import pytest

from bench import docs, report
from bench.figure import Figure

RECORDS = [
    Figure("one", "us", 11.5, baseline=10.0, of="loopback", goal=1.1, spread=(11.0, 12.0), note="a note").record("trips"),
    Figure("two", "ms", 19.0, goal=20.0, judged="value").record("pods"),
    Figure("three | four", "ns", 5.0, weather="churn", baseline=5.0, goal=1.03, unresolved=True).record("trips"),
]


def test_a_terminal_sees_every_figure_with_its_verdict() -> None:
    lines = report.table(RECORDS).splitlines()
    one, two, three = (next(line for line in lines if line.startswith(name)) for name in ("one", "two", "three"))
    assert one.split() == ["one", "quiet", "11.5", "11-12", "us", "10", "(loopback)", "x1.15", "<=", "x1.1", "NO"]
    assert two.endswith("<= 20                yes") or two.split()[-3:] == ["<=", "20", "yes"]
    assert three.endswith("not resolvable here")


def test_the_summary_counts_and_names_what_failed() -> None:
    text = report.summary(RECORDS, {"scale": "ended with status 1"})
    assert "3 figures; of 2 with a goal 1 are met, 1 are missed; 1 can't be resolved here" in text
    assert "group scale failed: ended with status 1" in text


def test_markdown_escapes_what_would_end_a_cell() -> None:
    page = report.markdown(RECORDS, {"kernel": "6.18"}, {})
    assert "| kernel | 6.18 |" in page
    assert "three \\| four" in page
    assert "- one (quiet): a note" in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0"), (12.0, "12"), (0.01234, "0.0123"), (1234.5, "1,234"), (262144.0, "262144")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_a_page_keeps_what_stands_around_the_figures(tmp_path: Path) -> None:
    text = f"head\n{docs.BEGIN}\nold\n{docs.END}\ntail\n"
    found = docs.replaced(text, "new")
    assert found == f"head\n{docs.BEGIN}\n\nnew\n\n{docs.END}\ntail\n"
    assert docs.replaced(found, "new") == found


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        docs.replaced("nothing", "new")


def test_this_repository_has_the_marks() -> None:
    page = Path(__file__).parents[3] / "docs" / "figures.md"
    assert docs.replaced(page.read_text(), "x")
