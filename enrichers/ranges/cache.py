"""Built tables kept on disk, found by the hash of everything they were built from, and read where they lie.

A file is checked whole (checksums, order, codes), then mapped: of a table only the pages that lookups touch take memory,
and the kernel may drop them again. It is never changed in place; a newer one takes another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from agent.core.flow import ColumnData, Text
from agent.core.process import give_back, let_go
from enrichers.ranges.table import Alias, RangeTable
from enrichers.ranges.texts import KeptTexts

FORMAT = 5
"""Goes up whenever a table is built or written differently, so that an old file is never taken for a new one."""
MAX_OCTETS = 1 << 30
KEEP = 8
"""Newest files kept in the folder."""

_LOCAL: Final = struct.Struct("<26xHH")
"""The fixed part of a local file header: it ends with the lengths of the name and of the extra fields."""
_ZIP64: Final = 20
"""Octets of the field that ``zipfile`` puts before ours."""
_PADDING: Final = struct.Struct("<HH")

_ARRAYS: dict[str, type[np.generic]] = {
    "v4_start": np.uint32,
    "v4_row": np.int32,
    "v6_high": np.uint64,
    "v6_low": np.uint64,
    "v6_row": np.int32,
}
_DAMAGE = (
    struct.error,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    NotImplementedError,
)


def cached(folder: Path | None, key: str, build: Callable[[], RangeTable]) -> RangeTable:
    """The table of that key from ``folder``, or built and kept there.

    ``key`` is any text that names all that the table depends on. A damaged or foreign file is built anew; a folder
    that cannot be written costs time at the next start, nothing else.
    """
    if folder is None:
        return build()
    path = place(folder, key)
    with contextlib.suppress(*_DAMAGE):
        return read(path, key)
    table = build()
    with contextlib.suppress(*_DAMAGE):
        write(path, key, table)
        _prune(folder)
        table = read(path, key)
    give_back()  # building has freed some hundred MB
    return table


def place(folder: Path, key: str) -> Path:
    """The file of the table of that key."""
    digest = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()
    return folder / f"{digest[:32]}.npz"


def write(path: Path, key: str, table: RangeTable) -> None:
    """Put a table on disk in one step. Raises ``OSError``."""
    facts: dict[str, bool] = {}
    arrays = {name: getattr(table, name) for name in _ARRAYS}
    for i, (name, column) in enumerate(table.rows.items()):
        facts[name] = isinstance(column, Text)
        if isinstance(column, Text):
            arrays[f"fact{i}"] = column.codes
            arrays[f"octets{i}"], arrays[f"ends{i}"] = KeptTexts.of(column.values).arrays
        else:
            arrays[f"fact{i}"] = column
    aliases = [(f"{a.prefix:032x}", a.length) for a in table.aliases]
    head = json.dumps({"format": FORMAT, "key": key, "facts": facts, "aliases": aliases})
    arrays["head"] = np.frombuffer(head.encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _put(file, arrays)
            file.flush()
            os.fsync(file.fileno())
            let_go(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(path: Path, key: str) -> RangeTable:
    """The table that :func:`write` put there. Raises one of many errors for anything else."""
    with zipfile.ZipFile(path) as members:
        if sum(m.file_size for m in members.infolist()) > MAX_OCTETS:
            raise ValueError("too large")
        if any(m.compress_type != zipfile.ZIP_STORED for m in members.infolist()):
            raise ValueError("compressed, so not ours")
        if members.testzip() is not None:
            raise ValueError("a checksum differs")
    arrays = _mapped(path)  # not before its checksums were compared
    head = json.loads(arrays["head"].tobytes())
    if head["format"] != FORMAT or head["key"] != key:
        raise ValueError("another table")
    rows = {
        name: _fact(arrays, i, is_text=bool(text)) for i, (name, text) in enumerate(head["facts"].items())
    }
    aliases = tuple(Alias(int(prefix, 16), int(length)) for prefix, length in head["aliases"])
    checked = {name: _array(arrays[name], wanted) for name, wanted in _ARRAYS.items()}
    table = _checked(RangeTable(**checked, rows=rows, aliases=aliases))
    _untouched(path, arrays)
    return table


def _put(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """As ``np.savez``, with every array's octets at a multiple of 64, so that they can be used where they lie."""
    with zipfile.ZipFile(file, "w") as members:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            begins = file.tell() + _LOCAL.size + len(info.filename) + _ZIP64 + _PADDING.size
            # Whoever reads skips a field of a kind that it does not know (PKWARE APPNOTE 4.5.2).
            spare = -begins % 64
            info.extra = _PADDING.pack(0xD935, spare) + bytes(spare)
            with members.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays, read-only where they lie; those that cannot be used there, as copies."""
    found: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as members:
        for info in members.infolist():
            file.seek(info.header_offset)
            *_, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
            file.seek(name + extra, 1)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an array of another kind")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject or len(shape) != 1:
                raise ValueError("an array of another kind")
            if shape[0] and file.tell() % dtype.alignment == 0:
                array = np.asarray(np.memmap(file, dtype, "r", file.tell(), shape))
            else:
                array = np.fromfile(file, dtype, shape[0])
            found[info.filename.removesuffix(".npy")] = array
    return found


def _untouched(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Let the kernel drop the pages that checking has read: only those that look-ups touch are to take memory."""
    for array in arrays.values():
        if isinstance(array.base, np.memmap) and isinstance(array.base.base, mmap.mmap):
            array.base.base.madvise(mmap.MADV_DONTNEED)
    with path.open("rb") as file:
        let_go(file.fileno())


def _array(array: NDArray[Any], wanted: type[np.generic]) -> NDArray[Any]:
    if array.dtype != wanted or not len(array):
        raise ValueError("an array of another kind")
    return array


def _fact(arrays: Mapping[str, NDArray[Any]], i: int, *, is_text: bool) -> ColumnData:
    codes = arrays[f"fact{i}"]
    if codes.dtype != (np.int32 if is_text else np.int64):
        raise ValueError("a fact of another kind")
    if not is_text:
        return codes
    octets, ends = arrays[f"octets{i}"], arrays[f"ends{i}"]
    if octets.dtype != np.uint8 or ends.dtype != np.int64:
        raise ValueError("texts of another kind")
    values = KeptTexts(octets, ends)
    if not _within(codes, len(values)):
        raise ValueError("codes without texts")
    return Text(codes, cast(tuple[str, ...], values))


def _within(codes: Any, n: int) -> bool:
    return not len(codes) or (int(codes.min()) >= -1 and int(codes.max()) < n)


def _checked(table: RangeTable) -> RangeTable:
    """The table, if no search in it can go astray."""
    lengths = {len(f) for f in table.rows.values()}
    high, low, v4 = table.v6_high, table.v6_low, table.v4_start
    rising = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    if (
        len(lengths) > 1
        or len(table.v4_row) != len(v4)
        or not len(high) == len(low) == len(table.v6_row)
        or v4[0]
        or high[0]
        or low[0]
        or not (v4[1:] > v4[:-1]).all()
        or not rising.all()
        or not _within(table.v4_row, len(table))
        or not _within(table.v6_row, len(table))
    ):
        raise ValueError("not a range table")
    return table


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in files[KEEP:]:
        path.unlink(missing_ok=True)
