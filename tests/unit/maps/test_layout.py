"""Records to bytes and back, by the layouts that the loader reads out of the sources."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_maps.layout import Layout

ROOT = Path(__file__).parents[3]


def _loader() -> ModuleType:
    """By its path, as it is started."""
    spec = importlib.util.spec_from_file_location("loader_under_test", ROOT / "nodeagent/pilus_agent/datapath/loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LOADER = _loader()
SOURCE = """
enum pilus_one {
	PILUS_A = 4,
	PILUS_B,
	PILUS_C = 1 << 3,
};
struct pilus_inner {
	__be32 word[4];
};
struct pilus_outer {
	u32 number;
	__be16 port;
	u8 flag, pad;
	u8 mac[6];
	u8 more[2];
	u32 table[PILUS_A];
	struct pilus_inner address;
};
"""


def _layout(source: str = SOURCE, name: str = "pilus_outer") -> Layout:
    enums = LOADER.read_enums(source)
    constants = {constant: number for enum in enums.values() for constant, number in enum.items()}
    return Layout(LOADER.read_structs(source, constants)[name])


def test_enums() -> None:
    assert LOADER.read_enums(SOURCE) == {"pilus_one": {"PILUS_A": 4, "PILUS_B": 5, "PILUS_C": 8}}


def test_bytes_are_as_the_compiler_lays_them_out() -> None:
    record = {"number": 1, "port": 80, "flag": 2, "mac": b"abcdef", "table": (1, 2, 3, 4), "address": bytes(range(16))}
    raw = _layout().encode(record)
    assert raw == (b"\1\0\0\0" + b"\0\x50" + b"\2\0" + b"abcdef" + b"\0\0" + b"".join(bytes([n, 0, 0, 0]) for n in (1, 2, 3, 4))
                   + bytes(range(16)))  # fmt: skip


def test_what_is_left_out_is_zero_and_what_is_not_there_is_an_error() -> None:
    layout = _layout()
    assert layout.encode({}) == bytes(layout.size)
    with pytest.raises(KeyError, match="nothing"):
        layout.encode({"nothing": 1})


@given(st.fixed_dictionaries({
    "number": st.integers(0, 2**32 - 1), "port": st.integers(0, 65535), "flag": st.integers(0, 255), "pad": st.just(0),
    "mac": st.binary(min_size=6, max_size=6), "more": st.just(b"\0\0"), "table": st.tuples(*[st.integers(0, 2**32 - 1)] * 4),
    "address": st.binary(min_size=16, max_size=16),
}))  # fmt: skip
def test_there_and_back(record: dict[str, Any]) -> None:
    layout = _layout()
    assert layout.decode(layout.encode(record)) == record


@pytest.mark.parametrize(("source", "message"), [
    ("struct pilus_x {\n\tu8 one;\n\tu32 two;\n};", "pad explicitly"),
    ("struct pilus_x {\n\tu32 one;\n\tu8 two;\n};", "pad explicitly"),
    ("struct pilus_x {\n\tstruct pilus_y one;\n};", "not written before"),
])  # fmt: skip
def test_a_struct_that_can_not_be_shared_is_refused(source: str, message: str) -> None:
    with pytest.raises(LOADER.LoaderError, match=message):
        LOADER.read_structs(source, {})


def test_the_sources_as_they_are(tmp_path: Path) -> None:
    """Every map's layout can be read, every drop reason has its text, no number is given twice."""
    _, described = LOADER.describe(ROOT / "bpf", tmp_path, {})
    drops = described["enums"]["pilus_drop"]
    assert len(set(drops.values())) == len(drops)
    assert set(described["texts"]) == set(drops)
    for held in described["maps"].values():
        for side in ("key", "value"):
            if held[side]["size"]:
                assert Layout(held[side]).size == held[side]["size"]
    assert described["structs"]["pilus_flow_key"]["size"] == 40
    assert len(set(described["tails"].values())) == len(described["tails"])


def test_the_first_64_bytes_of_a_flow_are_what_an_established_packet_reads(tmp_path: Path) -> None:
    _, described = LOADER.describe(ROOT / "bpf", tmp_path, {})
    first = {field["name"] for field in described["structs"]["pilus_flow"]["fields"] if field["offset"] < 64}
    assert first >= {"slot", "generation", "ifindex", "path", "state", "link", "vni", "last_seen", "mtu", "tunnel_id"}
