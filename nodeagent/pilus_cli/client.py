"""The way to the processes of this node.

In: a request as a mapping. Out: the answer, or an error that says what is wrong and what to do. Never prints.
The schemas are docs/agent-api.md (agent) and docs/observer-api.md (observer).
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Item: TypeAlias = dict[str, Json]

_ANSWER_LIMIT = 256 * 1024 * 1024  # an answer comes from a process of ours, but memory is not for it to take


class AskError(Exception):
    """A request that got no answer. ``action`` says what the person at the keyboard can do."""

    def __init__(self, message: str, action: str) -> None:
        super().__init__(message)
        self.action = action


def _connect(path: Path, who: str, timeout: float | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except FileNotFoundError:
        connection.close()
        raise AskError(
            f"no {who} is running here: {path} does not exist",
            f"run this on a node (in the lab: pilus lab exec NODE -- pilus ...), or start the {who} there",
        ) from None
    except PermissionError:
        connection.close()
        raise AskError(f"may not open {path}", "run this as root") from None
    except OSError as error:
        connection.close()
        raise AskError(f"the {who} does not answer at {path}: {error.strerror or error}", f"look at the {who}'s log") from error
    return connection


def stream(path: Path, who: str, request: Mapping[str, Json], *, timeout: float | None = 10.0) -> Iterator[Item]:
    """Every line of the answer, as it comes. ``timeout`` in seconds between two lines; None waits for ever.

    Raises AskError if nobody answers, or the answer is a refusal or not understood.
    """
    with _connect(path, who, timeout) as connection:
        # Who closes before it has heard all may have answered; and if not, that is said below.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(json.dumps(request).encode() + b"\n")
        read = connection.makefile("rb")
        while True:
            try:
                line = read.readline(_ANSWER_LIMIT)
            except TimeoutError:
                raise AskError(f"the {who} did not answer within {timeout:.0f} s", f"look at the {who}'s log") from None
            except ConnectionResetError:
                return
            if not line:
                return
            yield _decoded(line, who)


def _decoded(line: bytes, who: str) -> Item:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise AskError(f"the {who} answered with something else than a JSON object", "are the two of one version?")
    if answer.get("ok") is False:
        raise AskError(str(answer.get("error", "refused")), str(answer.get("action", f"look at the {who}'s log")))
    return answer


def ask(path: Path, request: Mapping[str, Json], who: str = "agent") -> Item:
    """The answer to one request. Raises AskError."""
    for answer in stream(path, who, request):
        return answer
    raise AskError(f"the {who} closed the connection without an answer", f"look at the {who}'s log")


def items(path: Path, request: Mapping[str, Json], who: str = "agent") -> list[Item]:
    """The objects that an answer lists. Raises AskError."""
    listed = ask(path, request, who).get("items")
    if not isinstance(listed, list):
        raise AskError(f"the {who}'s answer lists nothing", "are the two of one version?")
    return [item for item in listed if isinstance(item, dict)]


def item(path: Path, request: Mapping[str, Json], who: str = "agent") -> Item:
    """The one object that an answer holds. Raises AskError."""
    held = ask(path, request, who).get("item")
    if not isinstance(held, dict):
        raise AskError(f"the {who}'s answer holds nothing", "are the two of one version?")
    return held
