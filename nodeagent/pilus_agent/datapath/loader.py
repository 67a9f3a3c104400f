#!/usr/bin/python3
"""The loader: compiles the eBPF programs, loads and pins them, writes a description of what it pinned, and ends.

In: the C sources, a folder on bpffs, a configuration. Out: pins, and a JSON description (docs/engine.md). Nothing stays in
memory: bcc brings a compiler of 100 MB along, which must never be in the agent. A process of its own, started by its path under
the distribution's Python, with the standard library and bcc alone; it imports nothing of Pilus.

What is there already and fits is kept: with the same sources, kernel and configuration nothing is compiled, and a map whose
layout has not changed keeps its pin and its contents.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DESCRIPTION_VERSION = 1
# The headers that bcc's own preamble asks for: all of them are the kernel's types, which the BTF has.
_HEADERS = (
    "linux/bpf.h", "uapi/linux/bpf.h", "linux/types.h", "linux/if_packet.h", "uapi/linux/if_packet.h", "linux/workqueue.h",
    "linux/bpf_common.h", "linux/stddef.h", "linux/log2.h", "asm/types.h", "asm/page.h",
)  # fmt: skip
_BTF = Path("/sys/kernel/btf/vmlinux")
Described = dict[str, Any]
_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "s32": 4, "s64": 8, "__be16": 2, "__be32": 4, "__be64": 8}
_TYPES = {"sched_cls": "SCHED_CLS"}
# enum bpf_attach_type of linux/bpf.h: a socket program is loaded for one place. bcc has no name for their kind.
_CGROUP_SOCK_ADDR = 18
_ATTACH = {
    "cgroup_inet4_connect": 10, "cgroup_inet6_connect": 11, "cgroup_udp4_sendmsg": 14, "cgroup_udp6_sendmsg": 15,
    "cgroup_udp4_recvmsg": 19, "cgroup_udp6_recvmsg": 20, "cgroup_inet4_getpeername": 29, "cgroup_inet6_getpeername": 30,
}  # fmt: skip


# What goes on with what an older or newer release has written.
_STATE = frozenset({"flows", "embryonic"})
_STATE_LAYOUT = "PILUS_FLOW_LAYOUT"


class LoaderError(Exception):
    """The one line that says what is wrong."""


# -- reading the sources ---------------------------------------------------------------------------------------------------


def flatten(source: Path) -> str:
    """Every .c file and what it includes, as one text: bcc rewrites map accesses in the main file alone.

    A header with ``#pragma once`` appears once; one without appears wherever it is included, as a template.
    """
    seen: set[Path] = set()

    def read(path: Path) -> str:
        text = path.read_text()
        if "#pragma once" in text:
            if path in seen:
                return ""
            seen.add(path)
            text = text.replace("#pragma once", "")
        out = [f'#line 1 "{path.name}"']
        for number, line in enumerate(text.splitlines(), 1):
            included = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if included:
                out += [read(path.parent / included[1]), f'#line {number + 1} "{path.name}"']
            else:
                out.append(line)
        return "\n".join(out)

    return "\n".join(read(path) for path in sorted(source.glob("*.c"))) + "\n"


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def read_enums(text: str) -> dict[str, dict[str, int]]:
    """Every ``enum pilus_x``: name -> {constant: number}."""
    enums: dict[str, dict[str, int]] = {}
    for name, body in re.findall(r"^enum (pilus_\w+) \{(.*?)^\};", text, flags=re.DOTALL | re.MULTILINE):
        constants: dict[str, int] = {}
        following = 0
        for entry in filter(None, (part.strip() for part in body.split(","))):
            constant, _, value = (part.strip() for part in entry.partition("="))
            if value:
                shifted = re.fullmatch(r"(\w+) << (\w+)", value)
                following = int(shifted[1], 0) << int(shifted[2], 0) if shifted else constants.get(value) or int(value, 0)
            constants[constant] = following
            following += 1
        enums[name] = constants
    return enums


def read_texts(raw: str) -> dict[str, str]:
    """What stands in the comment behind a drop reason: its text for people."""
    return dict(re.findall(r"^\s*(PILUS_DROP_\w+) = \d+,\s*/\* (.*?) \*/", raw, flags=re.MULTILINE))


def read_structs(text: str, constants: dict[str, int]) -> dict[str, Described]:
    """Every ``struct pilus_x``: its size and its fields with offset, size, count and byte order, as the compiler lays it out."""
    structs: dict[str, Described] = {}
    for name, body in re.findall(r"^struct (pilus_\w+) \{(.*?)^\};", text, flags=re.DOTALL | re.MULTILINE):
        fields: list[Described] = []
        offset = alignment = 0
        for statement in filter(None, (part.strip() for part in body.split(";"))):
            declared = re.fullmatch(r"(struct )?(\w+)\s+(.*)", statement, flags=re.DOTALL)
            if not declared:
                raise LoaderError(f"struct {name}: can't read {statement!r}")
            kind = declared[2]
            for one in declared[3].split(","):
                named = re.fullmatch(r"\s*(\w+)(?:\[(\w+)\])?\s*", one)
                if not named:
                    raise LoaderError(f"struct {name}: can't read {one!r}")
                count = constants.get(named[2]) or int(named[2]) if named[2] else 0
                inner = structs.get(kind) if declared[1] else None
                if declared[1] and inner is None:
                    raise LoaderError(f"struct {name}: struct {kind} is not written before it")
                size = inner["size"] if inner else _SIZES[kind]
                align = inner["alignment"] if inner else size
                alignment = max(alignment, align)
                if offset % align:
                    raise LoaderError(f"struct {name}: {named[1]} is at {offset}, not a multiple of {align}: pad explicitly")
                fields.append({"name": named[1], "offset": offset, "size": size, "count": count,
                               "network": kind.startswith("__be"), "fields": inner["fields"] if inner else None})  # fmt: skip
                offset += size * max(count, 1)
        if offset % max(alignment, 1):
            raise LoaderError(f"struct {name}: {offset} bytes are no multiple of {alignment}: pad explicitly")
        structs[name] = {"size": offset, "alignment": max(alignment, 1), "fields": fields}
    return structs


def read_maps(text: str, structs: dict[str, Described], config: dict[str, int]) -> dict[str, Described]:
    """Every ``PILUS_MAP(type, key, value, name, size, flags)``: what it is and the hash of its layout."""
    maps: dict[str, Described] = {}

    def layout(kind: str) -> Described:
        bare = kind.replace("struct ", "").strip()
        if bare in structs:
            return {key: structs[bare][key] for key in ("size", "fields")}
        size = _SIZES[bare]
        field = {"name": "", "offset": 0, "size": size, "count": 0, "network": bare.startswith("__be"), "fields": None}
        return {"size": size, "fields": [field]}

    pattern = r'^PILUS_MAP\(\s*"(\w+)",\s*([\w ]+),\s*([\w ]+),\s*(\w+),\s*(\w+),\s*(\w+)\s*\);'
    for kind, key, value, name, size, flags in re.findall(pattern, text, flags=re.MULTILINE):
        entries = config[size] if size in config else int(size, 0)
        held = {"type": kind, "key": layout(key), "value": layout(value), "max_entries": entries, "flags": flags}
        maps[name] = held
    for name, record, size in re.findall(r"^PILUS_RINGBUF\((\w+), ([\w ]+), (\w+)\);", text, flags=re.MULTILINE):
        none = {"size": 0, "fields": []}
        maps[name] = {"type": "ringbuf", "key": none, "value": layout(record), "max_entries": config[size], "flags": "0"}
    for name, held in maps.items():
        counted = {**held, **_state_layout(held, config)} if name in _STATE else held
        held["layout"] = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]
    return maps


def _state_layout(held: Described, constants: dict[str, int]) -> Described:
    """What another release must have in common to go on with this map: abi.h says why not the fields' names."""
    return {side: {"size": held[side]["size"], "layout": constants[_STATE_LAYOUT]} for side in ("key", "value")}


def read_programs(text: str, constants: dict[str, int]) -> tuple[dict[str, str], dict[str, int]]:
    """Entry programs with their types, and tail calls with their slots."""
    programs = {name: kind for kind, name in re.findall(r"^PILUS_(?:PROGRAM|SOCKET)\((\w+), (\w+)\)", text, flags=re.MULTILINE)}
    tails = {name: constants[slot] for slot, name in re.findall(r"^PILUS_TAIL\((\w+), (\w+)\)", text, flags=re.MULTILINE)}
    return programs, tails


# -- what the compiler needs -----------------------------------------------------------------------------------------------


def kernel_tree(cache: Path) -> Path:
    """A folder that bcc takes for kernel sources: every header is the kernel's own BTF as C. Made once per kernel."""
    root = cache / f"headers-{os.uname().release}"
    if (root / "complete").exists():
        return root
    scratch = Path(tempfile.mkdtemp(prefix=".headers-", dir=cache))
    done = subprocess.run(["bpftool", "btf", "dump", "file", str(_BTF), "format", "c"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoaderError(f"bpftool can't read the kernel's types at {_BTF}: {done.stderr.strip()}")
    files = {
        "vmlinux.h": done.stdout,
        "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n#define PAGE_SIZE 4096\n",
        "include/linux/version.h": "#define KERNEL_VERSION(a,b,c) (((a)<<16)+((b)<<8)+(c))\n#define LINUX_VERSION_CODE 0x050f00\n",
        "include/generated/autoconf.h": "",
        "complete": "",
    }
    files |= {f"include/{name}": f'#include "{root}/vmlinux.h"\n' for name in _HEADERS}
    for extra in ("arch/x86/include/x", "include/uapi/x", "include/generated/uapi/x"):
        files[extra] = ""
    for name, text in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_text(text)
    shutil.rmtree(root, ignore_errors=True)
    scratch.rename(root)
    return root


def compile_and_load(text: str, described: Described, headers: Path, programs: Path) -> None:
    """Compile, load, check the layouts against the compiler's, pin the programs. Raises LoaderError."""
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    from bcc import BPF, lib  # noqa: PLC0415  # takes 0.3 s, which an unchanged load does not need

    cflags = ["-D_UAPI__LINUX_BPF_H__", "-D__LINUX_BPF_H__", "-Wno-everything", '-DKBUILD_MODNAME="pilus"', "-O2"]
    for name, held in described["maps"].items():
        cflags.append(f'-DPILUS_PIN_{name}="{held["pin"]}"')
    cflags += [f"-D{name}={value}" for name, value in described["config"].items()]
    try:
        module = BPF(text=text, cflags=cflags)
    except Exception as error:  # bcc has no exception of its own; what the compiler said is on standard error
        raise LoaderError(f"the sources do not compile: {error}") from error
    for name, held in described["maps"].items():
        for side, size in (("key", lib.bpf_table_key_size(module.module, name.encode())),
                           ("value", lib.bpf_table_leaf_size(module.module, name.encode()))):  # fmt: skip
            if held["type"] != "ringbuf" and held[side]["size"] != size:
                raise LoaderError(f"map {name}: the {side} has {held[side]['size']} bytes as read, {size} as compiled")

    def accepted(name: str, kind: str) -> Any:
        try:
            if kind in _ATTACH:
                return module.load_func(name, _CGROUP_SOCK_ADDR, attach_type=_ATTACH[kind])
            return module.load_func(name, getattr(BPF, _TYPES[kind]))
        except Exception as error:  # bcc's own again; the verifier's log is on standard error, its last lines say where
            raise LoaderError(f"the kernel refuses the program {name} ({error}); its log is above") from error

    loaded = {name: accepted(name, held["type"]) for name, held in described["programs"].items()}
    calls: Any = module[described["calls"]] if described["tails"] else None
    for name, slot in described["tails"].items():
        loaded[name] = accepted(name, "sched_cls")
        calls[calls.Key(slot)] = calls.Leaf(loaded[name].fd)
    programs.mkdir(parents=True, exist_ok=True)
    for name, program in loaded.items():
        if lib.bpf_obj_pin(program.fd, str(programs / name).encode()):
            raise LoaderError(f"can't pin program {name} at {programs / name}")


# -- the whole -------------------------------------------------------------------------------------------------------------


def describe(source: Path, pins: Path, config: dict[str, int]) -> tuple[str, Described]:
    """The text to compile, and everything that user space has to know of it but the programs' sizes."""
    raw = flatten(source)
    text = without_comments(raw)
    shared = "".join(re.findall(r'^#line 1 "abi\.h"$(.*?)(?=^#line|\Z)', text, flags=re.DOTALL | re.MULTILINE))
    enums = read_enums(shared)
    constants = {name: number for enum in enums.values() for name, number in enum.items()}
    constants |= {name: int(value) for name, value in re.findall(r"^#define (PILUS_\w+) (\d+)[ \t]*$", text, flags=re.MULTILINE)}
    structs = read_structs(shared, constants)
    maps = read_maps(text, structs, constants | config)
    programs, tails = read_programs(text, constants)
    digest = hashlib.sha256()
    for part in (raw, json.dumps(config, sort_keys=True), os.uname().release, Path(__file__).read_text(), str(pins)):
        digest.update(part.encode() + b"\0")
    name = digest.hexdigest()[:16]
    for key, held in maps.items():
        # A program array belongs to the programs in it: never shared between two loads, never written afterwards.
        folder = pins / "programs" / name if held["type"] == "prog" else pins / "maps"
        held["pin"] = str(folder / f"{key}-{held['layout']}")
    described = {
        "version": DESCRIPTION_VERSION,
        "hash": name,
        "config": config,
        "enums": enums,
        "texts": read_texts(raw),
        "structs": structs,
        "maps": maps,
        "calls": next((key for key, held in maps.items() if held["type"] == "prog"), None),
        "tails": tails,
        "programs": {
            # `attach`: 0 for what is attached by a filter, which says itself where.
            key: {"type": kind, "attach": _ATTACH.get(kind, 0), "pin": str(pins / "programs" / name / key)}
            for key, kind in programs.items()
        },
    }
    return raw, described


def complete(described: Described) -> bool:
    """Whether everything described is pinned."""
    places = [held["pin"] for kind in ("maps", "programs") for held in described[kind].values()]
    return bool(places) and all(Path(place).exists() for place in places)


def load(source: Path, pins: Path, description: Path, cache: Path, config: dict[str, int]) -> Described:
    """See the module. Returns the description. Raises LoaderError."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(pins.parent)], capture_output=True, text=True, check=False)
    if kind.stdout.strip() != "bpf_fs":
        raise LoaderError(f"{pins.parent} is not on a BPF file system: mount -t bpf bpf /sys/fs/bpf")
    for folder in (pins / "maps", pins / "programs", description.parent, cache):
        folder.mkdir(parents=True, exist_ok=True)
    text, described = describe(source, pins, config)
    described["compiled"] = not complete(described)
    if described["compiled"]:
        programs = pins / "programs" / described["hash"]
        if programs.exists():  # a load that was interrupted
            shutil.rmtree(programs)
        programs.mkdir()
        compile_and_load(text, described, kernel_tree(cache), programs)
    scratch = description.with_suffix(".new")
    scratch.write_text(json.dumps(described, indent=1))
    scratch.replace(description)
    return described


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the C sources")
    parser.add_argument("--pins", type=Path, required=True, help="folder on bpffs")
    parser.add_argument("--description", type=Path, required=True, help="where to write the description")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the header tree")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON object of PILUS_* numbers")
    wanted = parser.parse_args()
    wanted.description.parent.mkdir(parents=True, exist_ok=True)
    with (wanted.description.parent / f".{wanted.description.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            source, description, cache = (path.absolute() for path in (wanted.source, wanted.description, wanted.cache))
            described = load(source, wanted.pins, description, cache, wanted.config)
        except LoaderError as error:
            print(f"loader: {error}", file=sys.stderr)
            return 1
    print(json.dumps({"hash": described["hash"], "compiled": described["compiled"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
