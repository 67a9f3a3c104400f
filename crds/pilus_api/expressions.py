"""Regular expressions that a user wrote, on text that somebody else did: whatever both say, the time is linear in the text.

In: Go's syntax, in which Cilium's settings are written, and which RE2 has too. Python's own would try every way there is to match:
who may label a pod could stop an operator for good with `(a+)+b`.
"""

from typing import Final

import re2

from pilus_api.errors import InvalidError

_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False  # what is wrong is raised; it would stand on stderr as well


class Expression:
    """Raises InvalidError, for `field`, if `pattern` is no regular expression, or one that takes more than RE2's 8 MiB."""

    def __init__(self, pattern: str, field: str) -> None:
        try:
            self._compiled = re2.compile(pattern.encode(), _OPTIONS)
        except UnicodeEncodeError as error:
            raise InvalidError(f"{pattern!r} is not a regular expression: {error.reason}", field) from error
        except re2.error as error:
            raise InvalidError(f"{pattern!r} is not a regular expression: {error.args[0].decode()}", field) from error

    def matched(self, text: str) -> int:
        """How many bytes of the text's beginning it matches; -1: none."""
        found = self._compiled.match(text.encode(errors="surrogatepass"))
        return found.end() if found else -1
