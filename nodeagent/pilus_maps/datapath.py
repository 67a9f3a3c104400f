"""What is pinned on this node, opened by the description that the loader wrote."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilus_api.errors import PilusError
from pilus_maps import syscall
from pilus_maps.typed import TypedMap

DESCRIPTION = Path("/run/pilus/datapath.json")
_DESCRIPTION_VERSION = 1
# struct __sk_buff: what a test run may set of it (net/bpf/test_run.c, convert___skb_to_skb).
_SKB_SIZE = 192
_SKB_INGRESS_IFINDEX, _SKB_IFINDEX = 36, 40


class Program:
    """One pinned program."""

    def __init__(self, name: str, pin: str) -> None:
        self.name, self.pin = name, pin
        self.fd = syscall.open_pin(pin)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def info(self) -> dict[str, int]:
        return syscall.program_info(self.fd)

    def instructions(self) -> bytes:
        return syscall.program_instructions(self.fd)

    def test_run(self, data: bytes, *, ifindex: int = 0, ingress_ifindex: int = 0, repeat: int = 1) -> tuple[int, bytes, int]:
        """Run it on one frame: (return value, the frame afterwards, mean ns a run). `ifindex` must exist here."""
        context = bytearray(_SKB_SIZE)
        struct.pack_into("=I", context, _SKB_IFINDEX, ifindex)
        struct.pack_into("=I", context, _SKB_INGRESS_IFINDEX, ingress_ifindex)
        return syscall.test_run(self.fd, data, bytes(context), repeat)


class Datapath:
    """Maps and programs, opened when first asked for. Close it, or use it in a `with`."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        if description.get("version") != _DESCRIPTION_VERSION:
            raise PilusError(f"the datapath's description has version {description.get('version')}: restart the agent")
        self.description = description
        self.hash: str = description["hash"]
        self._maps: dict[str, TypedMap] = {}
        self._programs: dict[str, Program] = {}

    @classmethod
    def open(cls, path: Path = DESCRIPTION) -> "Datapath":
        """Raises PilusError where there is none."""
        try:
            return cls(json.loads(path.read_text()))
        except FileNotFoundError:
            raise PilusError(f"no datapath is loaded on this node ({path} is missing): is the agent running?") from None
        except ValueError as error:
            raise PilusError(f"{path} is broken ({error}): restart the agent") from error

    def __enter__(self) -> "Datapath":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in self._maps.values():
            one.close()
        for program in self._programs.values():
            program.close()
        self._maps.clear()
        self._programs.clear()

    def map(self, name: str) -> TypedMap:
        if name not in self._maps:
            self._maps[name] = TypedMap(name, self.description["maps"][name])
        return self._maps[name]

    def program(self, name: str) -> Program:
        if name not in self._programs:
            pin = self.description["programs"].get(name, {}).get("pin")
            if pin is None:
                folder = Path(next(iter(self.description["programs"].values()))["pin"]).parent
                pin = str(folder / name)
            self._programs[name] = Program(name, pin)
        return self._programs[name]

    @property
    def programs(self) -> list[str]:
        return [*self.description["programs"], *self.description["tails"]]

    def enum(self, name: str) -> dict[str, int]:
        """`pilus_hook` -> {"PILUS_HOOK_POD_FROM": 0, ...}."""
        found: dict[str, int] = self.description["enums"][name]
        return found

    def reason(self, number: int) -> str:
        """A drop reason's text."""
        for name, value in self.description["enums"]["pilus_drop"].items():
            if value == number:
                return str(self.description["texts"].get(name, name))
        return f"reason {number}"
