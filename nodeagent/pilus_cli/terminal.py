"""Text for a terminal.

In: strings from the cluster, which may hold anything. Out: strings that a terminal shows and never obeys. Never writes.
CVE-2025-48056 was a flow field with an escape sequence that the command line printed raw.
"""

import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Cc: C0 and C1 controls (escape, carriage return, CSI); Cf: bidirectional overrides and other invisible format
# characters, which make one name look like another; Cs, Co, Cn: nothing that a name needs.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe(text: object) -> str:
    """Text with everything that a terminal would act on written as ``\\xNN`` or ``\\uNNNN``; None becomes a dash."""
    if text is None:
        return "-"
    return "".join(_escaped(character) for character in str(text))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A plain table, one line of header, nothing drawn: every cell made safe, none taken for markup."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(safe(cell)) for cell in row))
    return shown


def console(stderr: bool = False) -> Console:
    """Where to print. Markup and emoji codes are off, since cells hold names from the cluster.

    A pipe gets lines of any length: a script that cuts columns must not meet a fold at 80 characters.
    """
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = 10_000
    return made
