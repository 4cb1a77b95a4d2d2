"""FlowBatch: the one shape that travels, and the one table that says what its columns mean.

A row is the delta of what one local end exchanged with one remote end in one interval, as seen from the reporting
host. Columns are numpy arrays of equal length; text columns are dictionary-coded. ``COLUMNS`` drives the Arrow and
Parquet schemas (:mod:`agent.core.wire`), the checks below and ``docs/flow-schema.md``.

Unknown is null. Null is never zero, never empty text. In memory each nullable column has a null marker that its
values cannot take (-1 for numbers and codes, all ones for addresses); on the wire it is an Arrow null.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntFlag
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.accounts import Account, Amounts
from agent.core.address import NULL_HALF, empty, texts

SCHEMA_VERSION: Final = 1


class Kind(Enum):
    """How a column is held: numpy type in memory, Arrow type on the wire."""

    ADDRESS = "address"
    """(n, 2) uint64 in memory, 16 bytes big-endian on the wire."""
    TEXT = "text"
    """int32 codes into a tuple of strings."""
    U8 = "u8"
    PORT = "port"
    """int32 in memory, uint16 on the wire."""
    NUMBER = "number"
    """int64 in memory, uint32 on the wire."""
    FLAGS = "flags"
    """uint16."""
    TCP_FLAGS = "tcp_flags"
    """int16 in memory, uint8 on the wire."""
    COUNT = "count"
    """int64 in memory (so that sums never turn into floats), uint64 on the wire."""
    TIME = "time"
    """int64 nanoseconds since the epoch, UTC."""


MEMORY_TYPE: Final[Mapping[Kind, type[np.generic]]] = {
    Kind.ADDRESS: np.uint64,
    Kind.TEXT: np.int32,
    Kind.U8: np.uint8,
    Kind.PORT: np.int32,
    Kind.NUMBER: np.int64,
    Kind.FLAGS: np.uint16,
    Kind.TCP_FLAGS: np.int16,
    Kind.COUNT: np.int64,
    Kind.TIME: np.int64,
}


class Mark(IntFlag):
    """What must be remembered of a row's amounts or times."""

    ESTIMATED = 1
    """Multiplied up from a sample."""
    LOWER_BOUND = 2
    """Headers are missing from the amounts and could not be added."""
    SPREAD = 4
    """Longer than one bucket, so it was spread evenly over the buckets it spans."""
    CLOCK_SUSPECT = 8
    """Ended more than five minutes after it was received."""
    LATE = 16
    """Arrived behind the watermark."""
    SELF = 32
    """Sekisho's own traffic: counted, outside the rules."""
    TRANSIT = 64
    """Neither end is local: archived, never summed."""
    MIDSTREAM = 128
    """Its beginning was not seen."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the schema: what it is called, how it is held, and what it means."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    null: bool = False
    stage: str = "capture"
    ipfix: str = ""
    ocsf: str = ""

    @property
    def marker(self) -> int:
        """The in-memory null marker of a nullable column."""
        return NULL_HALF if self.kind is Kind.ADDRESS else -1


def _c(name: str, kind: Kind, meaning: str, **rest: Any) -> Column:
    return Column(name, kind, meaning, **rest)


COLUMNS: Final[tuple[Column, ...]] = (
    # identity
    _c("local_address", Kind.ADDRESS, "The reporting host's end; IPv4 is v4-mapped.", ipfix="8 / 27", ocsf="src_endpoint.ip"),
    _c("remote_address", Kind.ADDRESS, "The other end.", ipfix="12 / 28", ocsf="dst_endpoint.ip"),
    _c("local_port", Kind.PORT, "Transport port; null for protocols without ports, for fragments, and for the ephemeral end of rows that belong to no store.", null=True, ipfix="7", ocsf="src_endpoint.port"),
    _c("remote_port", Kind.PORT, "As local_port, of the other end.", null=True, ipfix="11", ocsf="dst_endpoint.port"),
    _c("protocol", Kind.U8, "IANA protocol number of the innermost IP header read.", ipfix="4", ocsf="connection_info.protocol_num"),
    _c("initiator", Kind.TEXT, "Who opened the flow: local or remote; null if its beginning was not seen.", null=True, ipfix="239", ocsf="connection_info.direction_id"),
    _c("interface", Kind.TEXT, "Where it was seen.", null=True, ipfix="82", ocsf="src_endpoint.interface_name"),
    _c("nat_address", Kind.ADDRESS, "The local end's address after translation, where known.", null=True, ipfix="225 / 281"),
    _c("service_address", Kind.ADDRESS, "The remote end's address as the local end asked for it, where translation put another in its place; remote_address is who was really asked.", null=True),
    _c("service_port", Kind.PORT, "As service_address, the port.", null=True),
    _c("agent_host", Kind.TEXT, "The reporting host, as its batch says; null while the batch says it.", null=True, stage="archive", ocsf="device.hostname"),
    _c("agent_id", Kind.TEXT, "The agent that sent the batch; null while the batch says it.", null=True, stage="archive", ocsf="device.uid"),
    # amounts: deltas of the interval
    _c("flows", Kind.COUNT, "Flows that began in the interval.", unit="flows", ipfix="3", ocsf="count"),
    _c("octets_out", Kind.COUNT, "Sent by the local end: IP layer, headers included.", unit="octets", ipfix="1", ocsf="traffic.bytes_out"),
    _c("packets_out", Kind.COUNT, "Packets sent by the local end; a segmentation-offload frame counts as the packets it becomes where that is known, else as one.", unit="packets", ipfix="2", ocsf="traffic.packets_out"),
    _c("octets_in", Kind.COUNT, "Received by the local end: IP layer, headers included.", unit="octets", ipfix="1 (PEN 29305)", ocsf="traffic.bytes_in"),
    _c("packets_in", Kind.COUNT, "Packets received by the local end.", unit="packets", ipfix="2 (PEN 29305)", ocsf="traffic.packets_in"),
    _c("content_octets_out", Kind.COUNT, "octets_out less IP and transport headers: the bare acknowledgements of a download are not data sent. Amount rules read this column.", unit="octets"),
    _c("source_octets_out", Kind.COUNT, "The source's own figure, at source_layer.", unit="octets", null=True),
    _c("source_layer", Kind.TEXT, "Layer of source_octets_out: frame, ip, transport or payload.", null=True),
    _c("sampling_rate", Kind.NUMBER, "One in this many packets was seen; null if all were.", null=True, ipfix="34 / 305"),
    _c("start_ns", Kind.TIME, "First packet of the interval, reporter's clock.", unit="ns UTC", ipfix="156", ocsf="start_time"),
    _c("end_ns", Kind.TIME, "Last packet of the interval.", unit="ns UTC", ipfix="157", ocsf="end_time"),
    _c("tcp_flags", Kind.TCP_FLAGS, "OR of the TCP flags seen in both directions.", null=True, ipfix="6", ocsf="connection_info.tcp_flags"),
    _c("end_reason", Kind.TEXT, "Why the row was closed: idle, active, end, forced or resources.", null=True, ipfix="136"),
    # who
    _c("process", Kind.TEXT, "Name of the process that made the socket.", null=True, stage="process", ocsf="actor.process.name"),
    _c("pid", Kind.NUMBER, "Its id in the initial pid namespace.", null=True, stage="process", ocsf="actor.process.pid"),
    _c("executable", Kind.TEXT, "Path of its executable.", null=True, stage="process", ocsf="actor.process.file.path"),
    _c("parent", Kind.TEXT, "Name of the process that started it, as it was when the row was read.", null=True, stage="process", ocsf="actor.process.parent_process.name"),
    _c("parent_pid", Kind.NUMBER, "That process's id.", null=True, stage="process", ocsf="actor.process.parent_process.pid"),
    _c("uid", Kind.NUMBER, "Its numeric user id.", null=True, stage="process", ocsf="actor.user.uid"),
    _c("cgroup", Kind.TEXT, "Control group path at socket creation.", null=True, stage="process"),
    _c("unit", Kind.TEXT, "systemd unit.", null=True, stage="process"),
    _c("container", Kind.TEXT, "Container id.", null=True, stage="process", ocsf="src_endpoint.instance_uid"),
    _c("pod", Kind.TEXT, "Kubernetes pod: namespace/name, else its uid.", null=True, stage="process"),
    _c("pod_uid", Kind.TEXT, "Its uid.", null=True, stage="process"),
    _c("vm", Kind.TEXT, "Virtual machine behind the interface, as libvirt names it; process is then what runs the machine.", null=True, stage="process"),
    _c("attribution", Kind.TEXT, "How the process is known: process (it made, connected or sent on the socket), listener (it made the listening socket; a worker may have answered), holder (it held the socket when the capture began), kernel (no process: the kernel's own packet), interface (only the virtual machine or pod is known, by its interface) or unattributed; null where the tier does not tell.", null=True, stage="process"),
    # where to
    _c("remote_scope", Kind.TEXT, "internal, external, multicast, loopback, link_local, private, shared, broadcast, unspecified or reserved.", null=True, stage="network", ocsf="dst_endpoint.network_scope_id"),
    _c("remote_country", Kind.TEXT, "ISO 3166-1 alpha-2 country where the address is said to be; never set for anycast or special-purpose addresses.", null=True, stage="network", ocsf="dst_endpoint.location.country"),
    _c("remote_asn", Kind.NUMBER, "Origin autonomous system.", null=True, stage="network", ipfix="17", ocsf="dst_endpoint.autonomous_system.number"),
    _c("remote_as_org", Kind.TEXT, "Its registered organisation.", null=True, stage="network", ocsf="dst_endpoint.autonomous_system.name"),
    _c("remote_provider", Kind.TEXT, "Who runs the address: the provider's id.", null=True, stage="network", ocsf="dst_endpoint.owner.org.uid"),
    _c("remote_owner", Kind.TEXT, "Ultimate owner on record.", null=True, stage="network", ocsf="unmapped.sekisho.remote_owner"),
    _c("remote_owner_country", Kind.TEXT, "Country of the ultimate owner's head office.", null=True, stage="network"),
    _c("location_confidence", Kind.TEXT, "high, medium, low or none.", null=True, stage="network"),
    _c("owner_confidence", Kind.TEXT, "high, medium, low or none.", null=True, stage="network"),
    _c("remote_country_witness", Kind.TEXT, "What a second country database says; null where none is installed, and where remote_country can never be set.", null=True, stage="network"),
    _c("remote_asn_witness", Kind.NUMBER, "Origin autonomous system as a second database has it.", null=True, stage="network"),
    _c("remote_cloud", Kind.TEXT, "Provider that itself lists the address among its ranges: a witness of its own beside remote_provider.", null=True, stage="network"),
    _c("remote_cloud_region", Kind.TEXT, "Region in that provider's own words.", null=True, stage="network"),
    _c("remote_cloud_service", Kind.TEXT, "Its services that use the range, joined by +; null if it says no more than its own name.", null=True, stage="network", ocsf="dst_endpoint.svc_name"),
    _c("remote_flags", Kind.TEXT, "What kind of address it is, as lists say, joined by +: anycast, cdn, hosting, vpn, tor, relay.", null=True, stage="network"),
    _c("remote_name", Kind.TEXT, "Host name from DNS or SNI; only where switched on.", null=True, stage="network", ocsf="dst_endpoint.hostname"),
    # what
    _c("store", Kind.TEXT, "Id of the store in the register.", null=True, stage="policy", ocsf="unmapped.sekisho.store"),
    _c("basis", Kind.TEXT, "Why the row belongs to the store: process, port, unit, container, same_pod, same_host or copy_of.", null=True, stage="policy"),
    _c("tenant", Kind.TEXT, "Whose data.", null=True, stage="policy", ocsf="metadata.tenant_uid"),
    _c("vantage", Kind.TEXT, "Observation point that counted the row: class:point.", null=True),
    _c("marks", Kind.FLAGS, "Bit set: " + ", ".join(f"{m.value} {m.name.lower()}" for m in Mark if m.name) + "."),
)  # fmt: skip

BY_NAME: Final[Mapping[str, Column]] = {column.name: column for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class Text:
    """A dictionary-coded text column: ``values[codes[i]]``; code -1 is null."""

    codes: NDArray[np.int32]
    values: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Text:
        """Code the given texts. One Python object per row: for tests and small inputs."""
        index: dict[str, int] = {}
        codes = [-1 if t is None else index.setdefault(t, len(index)) for t in texts]
        return cls(np.array(codes, np.int32), tuple(index))

    @classmethod
    def full(cls, n: int, value: str | None) -> Text:
        """``n`` times the same text."""
        if value is None:
            return cls(np.full(n, -1, np.int32), ())
        return cls(np.zeros(n, np.int32), (value,))

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, index: NDArray[Any] | slice) -> Text:
        """Rows by index, mask or slice; the dictionary is kept."""
        return Text(self.codes[index], self.values)

    def decode(self) -> list[str | None]:
        """Plain texts: for display only."""
        return [self.values[c] if c >= 0 else None for c in self.codes.tolist()]

    def where(self, value: str) -> NDArray[np.bool_]:
        """Where the text equals ``value``."""
        wanted = [i for i, v in enumerate(self.values) if v == value]
        return np.isin(self.codes, wanted) if wanted else np.zeros(len(self.codes), bool)

    def compact(self) -> Text:
        """The same texts with a dictionary of distinct values, only those that are used, in order of first use in the dictionary."""
        if not self.values or (len(self.values) == 1 and len(self.codes) and self.codes.max() == 0):
            return self
        used = np.zeros(len(self.values) + 1, bool)  # one more for -1
        used[self.codes] = True
        used = used[:-1]
        distinct = len(set(self.values)) == len(self.values)
        if distinct and used.all():
            return self
        olds = np.flatnonzero(used)
        values: tuple[str, ...] = tuple([self.values[old] for old in olds.tolist()])
        translate = np.full(len(self.values) + 1, -1, np.int32)
        if distinct:
            translate[olds] = np.arange(len(olds), dtype=np.int32)
            return Text(translate[self.codes], values)
        index: dict[str, int] = {}
        translate[olds] = [index.setdefault(value, len(index)) for value in values]
        return Text(translate[self.codes], tuple(index))


def concat_text(columns: Sequence[Text]) -> Text:
    """Text columns one after another, their dictionaries joined."""
    same = columns[0].values if columns else ()
    if all(column.values is same for column in columns):
        return Text(np.concatenate([c.codes for c in columns] or [np.zeros(0, np.int32)]), same)
    index: dict[str, int] = {}
    parts = []
    known: tuple[str, ...] | None = None
    translate = np.zeros(0, np.int32)
    for column in columns:
        if column.values is not known:
            known = column.values
            numbers = [index.setdefault(value, len(index)) for value in known]
            translate = np.array([*numbers, -1], np.int32)
        parts.append(translate[column.codes])
    codes = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return Text(codes, tuple(index))


ColumnData = NDArray[Any] | Text


class _Pending(dict[str, ColumnData]):
    """Columns by name, made when they are first asked for: of most batches few are ever read."""

    __slots__ = ("make",)

    def __init__(self, known: Mapping[str, ColumnData], make: Callable[[str], ColumnData]) -> None:
        super().__init__(known)
        self.make = make

    def __missing__(self, name: str) -> ColumnData:
        data = self[name] = self.make(name)
        return data


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What is true of all rows of a batch. The id of a sealed batch is (agent_id, run_id, lane, sequence)."""

    agent_id: str = ""
    run_id: str = ""
    lane: int = 0
    sequence: int = -1
    """-1 until sealed."""
    host: str = ""
    collector: str = ""
    clock_offset_ns: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Database and register name -> version and hash that were in force."""
    account: Account | None = None
    """The run's cumulative account at sealing."""
    position: str = ""
    """Where in its input the batch ends, in the collector's own words."""

    @property
    def batch_id(self) -> tuple[str, str, int, int]:
        """(agent id, run id, lane, sequence)."""
        return (self.agent_id, self.run_id, self.lane, self.sequence)


class FlowBatch:
    """Rows of the schema as columns, with a header. Immutable by agreement: stages make a new batch of shared columns.

    ``batch["octets_out"]`` is the numpy array of a column (codes, for text); ``batch.text("store")`` its texts.
    """

    __slots__ = ("_columns", "_n", "_totals", "header")

    def __init__(
        self,
        columns: Mapping[str, ColumnData],
        header: BatchHeader | None = None,
        totals: dict[str, int] | None = None,
    ) -> None:
        """``totals``: sums of columns, as far as known."""
        self._columns = columns if isinstance(columns, _Pending) else dict(columns)
        self._n = len(self._columns["octets_out"])
        self._totals = {} if totals is None else totals
        self.header = header or BatchHeader()

    @classmethod
    def build(
        cls, n: int, columns: Mapping[str, ColumnData] | None = None, header: BatchHeader | None = None
    ) -> FlowBatch:
        """A batch of ``n`` rows from some columns; nullable ones left out are null, marks are 0.

        Raises ``ValueError`` for an unknown column, a wrong length or a missing column that cannot be null.
        """
        given = dict(columns or {})
        if unknown := given.keys() - BY_NAME.keys():
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        full: dict[str, ColumnData] = {}
        for column in COLUMNS:
            data = given.get(column.name)
            full[column.name] = _null(column, n) if data is None else _typed(column, data, n)
        return cls(full, header)

    @classmethod
    def arriving(
        cls,
        n: int,
        make: Callable[[str], ColumnData | None],
        header: BatchHeader | None = None,
        known: Mapping[str, ColumnData] | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> FlowBatch:
        """A batch of ``n`` rows whose columns ``make`` gives when they are first asked for, None for nulls; ``known`` are
        there already, ``totals`` are sums of some. What is given is not checked.
        """

        def made(name: str) -> ColumnData:
            data = make(name)
            return _null(BY_NAME[name], n) if data is None else data

        return cls(_Pending(known or {}, made), header, dict(totals or {}))

    @classmethod
    def empty(cls, header: BatchHeader | None = None) -> FlowBatch:
        """No rows."""
        required = {c.name: _zeros(c) for c in COLUMNS if not c.null and c.name != "marks"}
        return cls.build(0, required, header)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, name: str) -> NDArray[Any]:
        data = self._columns[name]
        return data.codes if isinstance(data, Text) else data

    def text(self, name: str) -> Text:
        """A text column with its dictionary."""
        data = self._columns[name]
        if not isinstance(data, Text):
            raise TypeError(f"{name} is no text column")
        return data

    def columns(self) -> Iterator[tuple[Column, ColumnData]]:
        """Every column of the schema with its data, in order."""
        for column in COLUMNS:
            yield column, self._columns[column.name]

    def with_columns(self, **changed: ColumnData) -> FlowBatch:
        """The same rows with some columns replaced."""
        given = {name: _typed(BY_NAME[name], data, self._n) for name, data in changed.items()}
        columns = self._columns
        if isinstance(columns, _Pending):
            return FlowBatch(_Pending({**columns, **given}, columns.make), self.header)
        return FlowBatch({**columns, **given}, self.header)

    def with_header(self, **changed: Any) -> FlowBatch:
        """The same rows under a changed header."""
        return FlowBatch(self._columns, replace(self.header, **changed), self._totals)

    def under(self, header: BatchHeader) -> FlowBatch:
        """The same rows under another header."""
        return FlowBatch(self._columns, header, self._totals)

    def take(self, index: NDArray[Any] | slice) -> FlowBatch:
        """Rows by index, mask or slice."""
        columns: dict[str, ColumnData] = {}
        if isinstance(index, slice):
            for name, data in self._all():
                columns[name] = data.take(index) if isinstance(data, Text) else data[index]
            return FlowBatch(columns, self.header)
        rows = np.flatnonzero(index) if index.dtype == np.bool_ else index
        for name, data in self._all():
            if isinstance(data, Text):
                columns[name] = Text(data.codes.take(rows), data.values)
            else:
                columns[name] = data.take(rows, axis=0)
        return FlowBatch(columns, self.header)

    def compact(self) -> FlowBatch:
        """The same rows with every dictionary cut to the values used."""
        columns: dict[str, ColumnData] = {
            name: data.compact() if isinstance(data, Text) else data for name, data in self._all()
        }
        return FlowBatch(columns, self.header)

    def named(self, host: str = "") -> FlowBatch:
        """The same rows with host and agent in columns of their own, as the header has them (``host`` where it has none)."""
        about = {"agent_host": self.header.host or host or None, "agent_id": self.header.agent_id or None}
        return self.with_columns(**{name: Text.full(self._n, text) for name, text in about.items()})

    def _all(self) -> Iterable[tuple[str, ColumnData]]:
        if isinstance(self._columns, _Pending):
            return [(name, self._columns[name]) for name in BY_NAME]
        return self._columns.items()

    def amounts(self) -> Amounts:
        """Flows and octets of all rows."""
        return Amounts(self.total("flows"), self.total("octets_out"), self.total("octets_in"))

    def total(self, name: str) -> int:
        """The exact sum of a column of amounts; added up once."""
        known = self._totals.get(name)
        if known is None:
            values = self[name]
            fits = not len(values) or int(values.max()) * len(values) <= _MOST_INT
            known = self._totals[name] = int(values.sum() if fits else values.sum(dtype=object))
        return known

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as a dict, null as None, addresses as text. A Python object per row: for display and tests."""
        lists = {column.name: _plain(column, data) for column, data in self.columns()}
        for values in zip(*lists.values(), strict=True):
            yield dict(zip(lists, values, strict=True))

    def __repr__(self) -> str:
        return f"FlowBatch({self._n} rows, {self.amounts()}, {self.header.batch_id})"


def concat(batches: Sequence[FlowBatch]) -> FlowBatch:
    """Batches one after another, under the first one's header."""
    if not batches:
        return FlowBatch.empty()
    if len(batches) == 1:
        return batches[0]
    columns: dict[str, ColumnData] = {}
    for column in COLUMNS:
        if column.kind is Kind.TEXT:
            columns[column.name] = concat_text([b.text(column.name) for b in batches])
        else:
            columns[column.name] = np.concatenate([b[column.name] for b in batches])
    return FlowBatch(columns, batches[0].header)


def _zeros(column: Column) -> ColumnData:
    shape = (0, 2) if column.kind is Kind.ADDRESS else (0,)
    return np.zeros(shape, MEMORY_TYPE[column.kind])


def _null(column: Column, n: int) -> ColumnData:
    """A column of nulls. Those of ordinary batches are parts of one that is made once, and so cannot be written to."""
    if n > _SHARED_ROWS:
        return _new_null(column, n)
    # Not one for each length: in a program that runs for months these lay between all else that comes and goes.
    whole = _shared_null(column.name)
    return whole.take(slice(0, n)) if isinstance(whole, Text) else whole[:n]


_SHARED_ROWS: Final = 1_000
_MOST_INT: Final = 2**63 - 1


@functools.cache
def _shared_null(name: str) -> ColumnData:
    data = _new_null(BY_NAME[name], _SHARED_ROWS)
    (data.codes if isinstance(data, Text) else data).flags.writeable = False
    return data


def _new_null(column: Column, n: int) -> ColumnData:
    if column.name == "marks":
        return np.zeros(n, np.uint16)
    if not column.null:
        raise ValueError(f"column {column.name} is missing and cannot be null")
    if column.kind is Kind.TEXT:
        return Text.full(n, None)
    if column.kind is Kind.ADDRESS:
        return empty(n)
    return np.full(n, -1, MEMORY_TYPE[column.kind])


def _typed(column: Column, data: ColumnData, n: int) -> ColumnData:
    if len(data) != n:
        raise ValueError(f"column {column.name} has {len(data)} rows, expected {n}")
    if column.kind is Kind.TEXT:
        if not isinstance(data, Text):
            raise ValueError(f"column {column.name} holds text")
        return data
    if isinstance(data, Text):
        raise ValueError(f"column {column.name} holds no text")
    wanted = MEMORY_TYPE[column.kind]
    if column.kind is Kind.ADDRESS and data.shape != (n, 2):
        raise ValueError(f"column {column.name} has shape {data.shape}, expected {(n, 2)}")
    return data if data.dtype == wanted else data.astype(wanted)


def _plain(column: Column, data: ColumnData) -> list[Any]:
    if isinstance(data, Text):
        return data.decode()
    if column.kind is Kind.ADDRESS:
        return texts(data)
    values = data.tolist()
    return [None if v == -1 else v for v in values] if column.null else values
