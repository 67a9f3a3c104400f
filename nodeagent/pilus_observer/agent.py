"""The way to the agent of this node (docs/agent-api.md).

In: what to get. Out: the list of objects that the agent answers with. Raises TemporaryError, whatever went wrong: the agent may
be restarting.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from pilus_api.errors import TemporaryError

AGENT = Path("/run/pilus/agent.sock")
TIMEOUT = 5.0
_LIMIT = 256 * 1024 * 1024  # an ipcache of a million rows

Item = dict[str, Any]


def parse(raw: bytes) -> list[Item]:
    """Raises TemporaryError for a refusal and for what is no answer."""
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise TemporaryError(f"the agent's answer is not JSON: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
        said = answer.get("error") if isinstance(answer, dict) else None
        raise TemporaryError(f"the agent refuses: {said}" if said else "the agent's answer lists nothing")
    return [item for item in answer["items"] if isinstance(item, dict)]


async def listed(path: Path, what: str, timeout: float = TIMEOUT) -> list[Item]:  # noqa: ASYNC109  # as `asked`
    """The items of `{"get": what}`. Raises TemporaryError."""
    return await asked(path, {"get": what}, timeout)


async def asked(path: Path, question: Item, timeout: float = TIMEOUT) -> list[Item]:  # noqa: ASYNC109  # one bound for the whole exchange
    """The items of the answer. Raises TemporaryError."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(json.dumps(question).encode() + b"\n")
                await writer.drain()
                raw = bytearray()
                while chunk := await reader.read(1 << 20):
                    raw += chunk
                    if len(raw) > _LIMIT:
                        raise TemporaryError(f"the agent's answer is longer than {_LIMIT} bytes")
            finally:
                writer.close()
    except TimeoutError:
        raise TemporaryError(f"the agent did not answer within {timeout:.0f} s") from None
    except OSError as error:
        raise TemporaryError(f"the agent does not answer at {path}: {error.strerror or error}") from error
    return await asyncio.to_thread(parse, bytes(raw))
