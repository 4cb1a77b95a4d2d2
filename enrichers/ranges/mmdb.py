"""MaxMind DB files read whole into a :class:`~enrichers.ranges.table.RangeTable`.

The search tree is walked by numpy, one bit of the address at a time for all networks together; each distinct record
is decoded once, by ``maxminddb`` itself. Format: MaxMind DB File Format Specification 2.0. Files are hostile until
proven otherwise: every fault is an :class:`~agent.core.errors.EnrichError` that names file and reason.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import maxminddb
import numpy as np
from numpy.typing import NDArray

from agent.core.errors import EnrichError
from agent.core.flow import ColumnData, Text
from agent.core.process import let_go
from enrichers.ranges.lineages import name_of
from enrichers.ranges.table import Alias, RangeTable, build

MAX_FILE_OCTETS = 1 << 30
DECODE_LIMIT_S = 60.0
"""A record may be as costly as ``maxminddb`` allows (milliseconds); a hostile file may hold millions of them."""
MAX_ALIASES = 16
"""IPv6 prefixes that lead to IPv4. Real files have at most three."""

_SEPARATOR = 16
_RECORD_SIZES = (24, 28, 32)
_MAPPED = 0xFFFF << 32
# What maxminddb 3.2, its C reader and its pure Python reader raise for broken files.
_READER_ERRORS = (
    maxminddb.InvalidDatabaseError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    OSError,
)

Fact = str | int | None
Record = Any
"""What a record decodes to: nested dicts, lists, texts, numbers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Which facts to take of a record."""

    kinds: Mapping[str, type[str] | type[int]]
    """Name of each fact -> ``str`` or ``int`` (not negative)."""
    read: Callable[[Record], tuple[Fact, ...]]
    """One value per kind, in order; None where the record does not tell. Must take any record without raising."""


@dataclass(frozen=True, slots=True)
class Database:
    """A MaxMind DB file, read whole, so that nobody can change it under us."""

    path: Path
    content: bytes
    sha256: str
    database_type: str
    built_s: int | None
    """When it was built, seconds since the epoch; None if the file does not say credibly."""
    ip_version: int
    node_count: int
    record_size: int

    @property
    def name(self) -> str:
        """Its type in lower case, such as ``dbip-country-lite``; of a known file with a general type, its real name."""
        return name_of(self.sha256) or (
            re.sub(r"[^a-z0-9]+", "-", self.database_type.lower().partition(" (")[0]).strip("-") or "unnamed"
        )

    @property
    def version(self) -> str:
        """Name, day and hash: ``dbip-country-lite 2026-09-01 sha256:d284ae2e7427``."""
        return f"{self.name} {self.built or 'undated'} sha256:{self.sha256[:12]}"

    @property
    def built(self) -> date | None:
        """UTC day on which it was built."""
        return datetime.fromtimestamp(self.built_s, UTC).date() if self.built_s is not None else None

    @property
    def tree_octets(self) -> int:
        """Size of the search tree."""
        return self.node_count * self.record_size // 4


def open_database(path: Path) -> Database:
    """Read a database and check its frame. Raises :class:`EnrichError`."""
    content = _content(path)
    with _reader(path, content) as reader:
        meta = reader.metadata()
        numbers = (meta.ip_version, meta.node_count, meta.record_size, meta.build_epoch)
        kind = meta.database_type
    if not all(isinstance(n, int) for n in numbers) or not isinstance(kind, str):
        raise EnrichError(f"{path}: its metadata has values of the wrong type; get the database again")
    version, nodes, size, epoch = numbers
    if version not in (4, 6) or size not in _RECORD_SIZES:
        raise EnrichError(
            f"{path}: IP version {version} with {size}-bit records is not a known MaxMind DB layout"
        )
    if nodes < 1 or nodes * size // 4 + _SEPARATOR > len(content):
        raise EnrichError(
            f"{path}: its search tree of {nodes} nodes does not fit into the file; it is cut off or broken"
        )
    built = epoch if 631_152_000 <= epoch < 4_102_444_800 else None  # 1990 to 2100
    digest = hashlib.sha256(content).hexdigest()
    return Database(path, content, digest, kind, built, version, nodes, size)


def look_up(database: Database, address: str) -> tuple[Record | None, int]:
    """The record of one address and the length of the prefix it stands for. Raises :class:`EnrichError`."""
    parsed = ip_address(address)
    if parsed.version == 6 and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.version > database.ip_version:
        return None, 0
    with _reader(database.path, database.content) as reader:
        return reader.get_with_prefix_len(parsed)


def flatten(database: Database, reading: Reading) -> RangeTable:
    """Every network of the database as sorted intervals with the facts that ``reading`` takes of its record.

    Answers as ``maxminddb`` does for each address. Raises :class:`EnrichError` for a tree with loops, shared branches
    or pointers to nowhere, for records that cannot be decoded, and when decoding takes more than ``DECODE_LIMIT_S``.
    """
    tree = _Tree(database)
    root4, depth4 = tree.root_of_v4()
    v4 = tree.walk(root4, 32) if depth4 == 96 else _constant(root4)
    v6 = tree.walk(0, 128, alias=root4 if depth4 == 96 else None) if database.ip_version == 6 else None
    pointers = np.concatenate([v4.pointer, v6.pointer]) if v6 else v4.pointer
    first, number = tree.distinct(pointers)
    facts = _decode(database, reading, [_address(v4, v6, leaf) for leaf in first.tolist()])
    row_of, rows = _rows(facts, reading)
    row = np.append(row_of, np.int32(-1))[number]
    n4, zero = len(v4.pointer), np.zeros(1, np.uint64)
    starts6 = (v6.high, v6.low, row[n4:]) if v6 else (zero, zero, np.full(1, -1, np.int32))
    return build((v4.high.astype(np.uint32), row[:n4]), starts6, rows, v6.aliases if v6 else ())


@dataclass(frozen=True, slots=True)
class _Leaves:
    """Ends of all branches in order of address, without gaps."""

    high: NDArray[np.uint64]
    """IPv4 number, or high half."""
    low: NDArray[np.uint64]
    pointer: NDArray[np.int64]
    """``node_count`` is "no data"."""
    aliases: tuple[Alias, ...] = ()


class _Tree:
    def __init__(self, database: Database) -> None:
        self.path = database.path
        self.nodes = database.node_count
        self.data_octets = len(database.content) - database.tree_octets - _SEPARATOR
        self.ip_version = database.ip_version
        self.records = _records(database)

    def root_of_v4(self) -> tuple[int, int]:
        """The node (or pointer) under which IPv4 lies, and how many zero bits lead there."""
        if self.ip_version == 4:
            return 0, 96
        node = 0
        for depth in range(96):
            if node >= self.nodes:
                return node, depth
            node = int(self.records[node, 0])
        return node, 96 if node < self.nodes else 95

    def walk(self, root: int, bits: int, alias: int | None = None) -> _Leaves:
        """All leaves under ``root``. The node ``alias`` is not entered but noted as an alias of IPv4."""
        node, high, low = np.array([root], np.int64), np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        ends: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]] = []
        aliases: list[Alias] = []
        visited = 0
        for depth in range(1, bits + 1):
            visited += len(node)
            if visited > self.nodes:
                raise self._broken("its search tree has loops or branches that share nodes")
            child = self.records[node].reshape(-1).astype(np.int64)
            high, low = np.repeat(high, 2), np.repeat(low, 2)
            if bits == 32:
                high[1::2] |= np.uint64(1 << (32 - depth))
            elif depth <= 64:
                high[1::2] |= np.uint64(1 << (64 - depth))
            else:
                low[1::2] |= np.uint64(1 << (128 - depth))
            inner = child < self.nodes
            if alias is not None and (shared := inner & (child == alias)).any():
                if depth > 96 or len(aliases) + int(shared.sum()) > MAX_ALIASES:
                    raise self._broken("its IPv4 tree hangs in places where it cannot belong")
                aliases += _aliases(high[shared], low[shared], depth)
                child[shared] = self.nodes
                inner &= ~shared
            ends.append((high[~inner], low[~inner], child[~inner]))
            node, high, low = child[inner], high[inner], low[inner]
            if not len(node):
                break
        else:
            raise self._broken("its search tree is deeper than an address")
        return self._sorted(ends, tuple(aliases))

    def distinct(self, pointers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """One leaf of each distinct record, and the number of each leaf's record (-1: no data)."""
        offset = pointers - self.nodes
        if ((offset > 0) & ((offset < _SEPARATOR) | (offset >= self.data_octets + _SEPARATOR))).any():
            raise self._broken("its search tree points outside its data")
        values, first, number = np.unique(offset, return_index=True, return_inverse=True)
        empty = int(len(values) > 0 and values[0] == 0)
        return first[empty:], (number - empty).astype(np.int32)

    def _sorted(
        self,
        ends: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]],
        aliases: tuple[Alias, ...],
    ) -> _Leaves:
        high, low, pointer = (np.concatenate(parts) for parts in zip(*ends, strict=True))
        order = np.lexsort((low, high)) if low.any() else np.argsort(high)
        return _Leaves(high[order], low[order], pointer[order], aliases)

    def _broken(self, reason: str) -> EnrichError:
        return EnrichError(f"{self.path}: {reason}; get the database again")


def _constant(pointer: int) -> _Leaves:
    """All of IPv4 in one leaf: the tree ends before its 96 zero bits do."""
    zero = np.zeros(1, np.uint64)
    return _Leaves(zero, zero, np.array([pointer], np.int64))


def _records(database: Database) -> NDArray[np.uint32]:
    """Both records of each node, shape (node_count, 2)."""
    width = database.record_size // 4
    raw = np.frombuffer(database.content, np.uint8, database.tree_octets).reshape(-1, width)
    if database.record_size == 32:
        return raw.view(">u4").astype(np.uint32)
    left, right = raw[:, :3], raw[:, width - 3 :]
    records = np.empty((len(raw), 2), np.uint32)
    for side, octets in enumerate((left, right)):
        wide = octets.astype(np.uint32)
        records[:, side] = wide[:, 0] << 16 | wide[:, 1] << 8 | wide[:, 2]
    if database.record_size == 28:
        middle = raw[:, 3].astype(np.uint32)
        records[:, 0] |= (middle >> 4) << 24
        records[:, 1] |= (middle & 15) << 24
    return records


def _aliases(high: NDArray[np.uint64], low: NDArray[np.uint64], depth: int) -> list[Alias]:
    """Prefixes that lead to IPv4; ::/96 and ::ffff:0:0/96 are left out, since tables always read them as IPv4."""
    prefixes = [h << 64 | lo for h, lo in zip(high.tolist(), low.tolist(), strict=True)]
    return [Alias(p, depth) for p in prefixes if not (depth == 96 and p in (0, _MAPPED))]


def _address(v4: _Leaves, v6: _Leaves | None, leaf: int) -> IPv4Address | IPv6Address:
    if leaf < len(v4.pointer):
        return IPv4Address(int(v4.high[leaf]))
    assert v6 is not None
    at = leaf - len(v4.pointer)
    return IPv6Address(int(v6.high[at]) << 64 | int(v6.low[at]))


def _decode(
    database: Database, reading: Reading, addresses: list[IPv4Address | IPv6Address]
) -> list[tuple[Fact, ...]]:
    """The facts of the record behind each address."""
    facts = []
    until = time.monotonic() + DECODE_LIMIT_S
    with _reader(database.path, database.content) as reader:
        for i, address in enumerate(addresses):
            facts.append(reading.read(reader.get(address)))
            if not i & 0xFF and time.monotonic() > until:
                raise EnrichError(
                    f"{database.path}: decoding took over {DECODE_LIMIT_S:.0f} s; it is broken or hostile"
                )
    return facts


def _rows(facts: list[tuple[Fact, ...]], reading: Reading) -> tuple[NDArray[np.int32], dict[str, ColumnData]]:
    """Number equal facts alike: (row of each, columns of the distinct ones). Nothing known is row -1."""
    nothing = (None,) * len(reading.kinds)
    index: dict[tuple[Fact, ...], int] = {}
    numbers = [-1 if f == nothing else index.setdefault(f, len(index)) for f in facts]
    columns: dict[str, ColumnData] = {}
    values = list(zip(*index, strict=True)) or [()] * len(reading.kinds)
    for (name, kind), column in zip(reading.kinds.items(), values, strict=True):
        if kind is str:
            columns[name] = Text.of(None if v is None else str(v) for v in column)
        else:
            columns[name] = np.array([-1 if v is None else v for v in column], np.int64)
    return np.array(numbers, np.int32), columns


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_OCTETS:
                raise EnrichError(f"{path}: {size} octets is more than the {MAX_FILE_OCTETS} that are read")
            content = file.read(MAX_FILE_OCTETS)
            let_go(file.fileno())
            return content
    except OSError as error:
        raise EnrichError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _reader(path: Path, content: bytes) -> Iterator[maxminddb.Reader]:
    """A reader of a private copy: the C reader maps its file, and a file cut short under a map ends the process."""
    descriptor = os.memfd_create("mmdb")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(content)
            copy.flush()
            with maxminddb.open_database(f"/proc/self/fd/{descriptor}") as reader:
                yield reader
    except _READER_ERRORS as error:
        ours = f"/proc/self/fd/{descriptor}" in str(error) or not str(error)
        reason = "its metadata is missing or broken" if ours else str(error)
        raise EnrichError(
            f"{path}: not a MaxMind DB that can be read ({reason}); get the database again"
        ) from error
