"""Rule numbers in words, out of the file that the agent writes beside its maps.

In: a JSON object, `{"<number>": "kind/namespace/name path"}`. Out: text by number. A file that is missing or broken means that
rules have no names, never that events are held back.
"""

import asyncio
import json
from pathlib import Path

import structlog

RULES = Path("/run/pilus/rules.json")
_LIMIT = 64 * 1024 * 1024

_log = structlog.get_logger(__name__)

Stamp = tuple[int, int, int]


def parse(raw: bytes) -> dict[int, str]:
    """Raises ValueError if it is no such object. An entry that means nothing is left out."""
    try:
        held = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(held, dict):
        raise ValueError("not a JSON object")
    return {int(number): text for number, text in held.items() if number.isdecimal() and isinstance(text, str)}


class Rules:
    def __init__(self, path: Path = RULES) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self._texts: dict[int, str] = {}

    def text(self, number: int) -> str | None:
        return self._texts.get(number) if number else None

    async def refresh(self) -> None:
        """Read the file again if it is another one than last time."""
        await asyncio.to_thread(self._reread)

    def _reread(self) -> None:
        try:
            held = self._path.stat()
            stamp = (held.st_mtime_ns, held.st_ino, held.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if held.st_size > _LIMIT:
                raise ValueError(f"larger than {_LIMIT} bytes")
            self._texts = parse(self._path.read_bytes())
        except FileNotFoundError:
            self._stamp, self._texts = None, {}
        except (OSError, ValueError) as error:  # once for each version of the file: the stamp is kept
            _log.warning("can't read the rules' names", path=str(self._path), error=str(error))
