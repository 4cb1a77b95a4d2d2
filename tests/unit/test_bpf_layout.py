"""The numpy types of the reader are the C structs of the programs, field by field, as the compiler's BTF tells them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import collectors.bpf
from collectors.bpf import layout

OBJECT = (Path(collectors.bpf.__file__).parent / "flow.bpf.o").read_bytes()
# Words that follow the head of a type, by its kind, for one member each (linux/btf.h).
_FOLLOWING = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12)}  # fmt: skip


def section(name: bytes) -> bytes:
    """A section of a 64-bit little-endian ELF file."""
    offset, count, names = struct.unpack_from("<Q", OBJECT, 40)[0], *struct.unpack_from("<HH", OBJECT, 60)
    heads = [struct.unpack_from("<IIQQQQ", OBJECT, offset + 64 * n) for n in range(count)]
    text = heads[names]
    for head in heads:
        at = text[4] + head[0]
        if OBJECT[at : OBJECT.index(b"\0", at)] == name:
            return OBJECT[head[4] : head[4] + head[5]]
    raise AssertionError(f"no section {name!r}")


def structs() -> dict[str, tuple[int, dict[str, int]]]:
    """Struct -> (octets, field -> offset in octets)."""
    btf = section(b".BTF")
    head, types_at, types_octets, texts_at = struct.unpack_from("<IIII", btf, 4)
    at, end, out = head + types_at, head + types_at + types_octets, {}

    def text(offset: int) -> str:
        begin = head + texts_at + offset
        return btf[begin : btf.index(b"\0", begin)].decode()

    while at < end:
        name, info, size = struct.unpack_from("<III", btf, at)
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        at += 12
        if kind == 4 and name:
            fields = (struct.unpack_from("<III", btf, at + 12 * n) for n in range(members))
            out[text(name)] = (size, {text(field): bits // 8 for field, _, bits in fields})
        once, each = _FOLLOWING.get(kind, (0, 0))
        at += once + each * members
    return out


@pytest.mark.parametrize(
    ("name", "kind"), [("key", layout.KEY), ("value", layout.VALUE), ("totals", layout.TOTALS)]
)
def test_the_reader_s_types_are_the_program_s(name: str, kind: np.dtype[np.void]) -> None:
    """Same size, same fields, same offsets, same order."""
    assert kind.fields is not None
    assert structs()[name] == (kind.itemsize, {field: kind.fields[field][1] for field in kind.names or ()})


def test_octets_are_the_order_of_all_machines_it_is_for() -> None:
    """One object serves x86-64 and arm64: both are little-endian, and nothing in it is a system call's number."""
    assert OBJECT[4:6] == b"\2\1"  # ELFCLASS64, ELFDATA2LSB
    assert struct.unpack_from("<H", OBJECT, 18)[0] == 247  # EM_BPF
