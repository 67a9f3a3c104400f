"""The step from a run to the documentation: what stands between two marks of docs/figures.md is replaced, and the plot copied."""

import shutil
from pathlib import Path

BEGIN, END = "<!-- figures of a run begin -->", "<!-- figures of a run end -->"


def replaced(text: str, part: str) -> str:
    """Raises ValueError without the marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"docs/figures.md lacks {BEGIN} or {END}")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{part.rstrip()}\n\n{END}{rest.partition(END)[2]}"


def write(folder: Path, part: str, plot: Path) -> None:
    page = folder / "figures.md"
    page.write_text(replaced(page.read_text(), part))
    shutil.copyfile(plot, folder / "figures.svg")
