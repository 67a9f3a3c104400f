"""What CNI ADD made, kept on disk beside the agent, so that a new agent knows what the old one made.

The folder lies under /run: it goes with the links when the machine restarts. A file that can't be read is said and left out.
"""

import json
import re
from dataclasses import asdict, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from pilus_agent.facts import Address, Attachment

_log = structlog.get_logger(__name__)
_LAST_NUMBER = 65535
_TYPES = {"addresses": tuple, "ifindex": int, "number": int}  # everything else is text
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def key_of(attachment: Attachment) -> str:
    return f"{attachment.container}/{attachment.interface}"


def _attachment(held: Any) -> Attachment:
    """Raises ValueError, TypeError or KeyError: what gets past here is believed everywhere."""
    if not isinstance(held, dict) or not isinstance(held["addresses"], list):
        raise TypeError("not an attachment")
    found = Attachment(**{**held, "addresses": tuple(ip_address(str(text)) for text in held["addresses"])})
    for field in fields(found):
        if type(getattr(found, field.name)) is not _TYPES.get(field.name, str):
            raise TypeError(f"{field.name} is of another type")
    if not 0 < found.number <= _LAST_NUMBER or not all(map(_MAC.fullmatch, (found.mac, found.gateway_mac))):
        raise ValueError("number or MAC address is none")
    return found


class AttachmentFiles:
    """One file each, named by the endpoint's number, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._released = folder.with_name(f"{folder.name}-released")
        for one in (self._folder, self._released):
            one.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read(self) -> dict[str, Attachment]:
        found: dict[str, Attachment] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                attachment = _attachment(json.loads(path.read_text()))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                _log.warning("an endpoint's file can't be read, left out", path=str(path), error=repr(error))
                continue
            found[key_of(attachment)] = attachment
        return found

    def write(self, attachment: Attachment) -> None:
        held = asdict(attachment) | {"addresses": [str(address) for address in attachment.addresses]}
        path = self._folder / f"{attachment.number}.json"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(held))
        scratch.replace(path)

    def remove(self, attachment: Attachment, since: float) -> None:
        """Its addresses rest from `since` on (seconds, monotonic): the next agent has to know as well."""
        held = {"addresses": [str(address) for address in attachment.addresses], "since": since}
        path = self._released / f"{attachment.number}.json"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(held))
        scratch.replace(path)
        (self._folder / f"{attachment.number}.json").unlink(missing_ok=True)

    def released(self, before: float) -> dict[Address, float]:
        """Since when addresses rest. Forgets what was released before that moment, and what can't be read."""
        found: dict[Address, float] = {}
        for path in self._released.glob("*.json"):
            try:
                held = json.loads(path.read_text())
                since = float(held["since"])
                if since < before:
                    path.unlink(missing_ok=True)
                    continue
                for text in held["addresses"]:
                    address = ip_address(str(text))
                    found[address] = max(since, found.get(address, since))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                _log.warning("a released endpoint's file can't be read, left out", path=str(path), error=repr(error))
                path.unlink(missing_ok=True)
        return found


class Numbers:
    """Endpoint numbers, 1 to 65535, in turn: one that was given back is not given out again soon."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._last = 0

    def hold(self, number: int) -> None:
        self._held.add(number)
        self._last = max(self._last, number)

    def take(self) -> int:
        for step in range(1, _LAST_NUMBER + 1):
            number = (self._last + step - 1) % _LAST_NUMBER + 1
            if number not in self._held:
                self._held.add(number)
                self._last = number
                return number
        raise RuntimeError("65,535 endpoints on one node")

    def give_back(self, number: int) -> None:
        self._held.discard(number)
