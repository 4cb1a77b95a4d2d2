"""FlowBatch to Arrow and back. The only module that knows Arrow, so that a lighter writer can take its place.

Addresses travel as 16 bytes in network order (v4-mapped), amounts as uint64, times as nanosecond UTC timestamps,
texts as dictionaries of int32 codes, null as Arrow null.
"""

from __future__ import annotations

import functools
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agent.core.errors import DecodeError
from agent.core.flow import (
    BY_NAME,
    COLUMNS,
    MEMORY_TYPE,
    SCHEMA_VERSION,
    BatchHeader,
    Column,
    ColumnData,
    FlowBatch,
    Kind,
    Text,
)

_ARROW: dict[Kind, pa.DataType] = {
    Kind.ADDRESS: pa.binary(16),
    Kind.TEXT: pa.dictionary(pa.int32(), pa.string()),
    Kind.U8: pa.uint8(),
    Kind.PORT: pa.uint16(),
    Kind.NUMBER: pa.uint32(),
    Kind.FLAGS: pa.uint16(),
    Kind.TCP_FLAGS: pa.uint8(),
    Kind.COUNT: pa.uint64(),
    Kind.TIME: pa.timestamp("ns", "UTC"),
}

_WIRE_TYPE: dict[Kind, Any] = {
    Kind.U8: np.uint8,
    Kind.PORT: np.uint16,
    Kind.NUMBER: np.uint32,
    Kind.FLAGS: np.uint16,
    Kind.TCP_FLAGS: np.uint8,
    Kind.COUNT: np.uint64,
    Kind.TIME: np.int64,
}
_INDEX: dict[Any, pa.DataType] = {
    np.dtype(np.int8): pa.int8(),
    np.dtype(np.int16): pa.int16(),
    np.dtype(np.int32): pa.int32(),
}
_AS_IT_LIES = frozenset((Kind.COUNT, Kind.TIME))
"""Amounts are checked to be small, so their octets are those of signed numbers: no copy is made."""
MOST = 1 << 53
"""A row's amount above this is nobody's traffic, and sums of such would not fit."""


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type of a column."""
    return _ARROW[column.kind]


def arrow_schema() -> pa.Schema:
    """The Arrow schema of every flow file and message, with units and meanings as field metadata."""
    fields = [
        pa.field(c.name, arrow_type(c), nullable=c.null, metadata={"unit": c.unit, "meaning": c.meaning})
        for c in COLUMNS
    ]
    return pa.schema(fields, metadata={"sekisho.schema": str(SCHEMA_VERSION)})


def to_arrow(batch: FlowBatch) -> pa.RecordBatch:
    """The batch as one Arrow record batch, dictionaries compacted, header in the schema's metadata."""
    arrays = [_to_arrow(column, data) for column, data in batch.compact().columns()]
    metadata = {
        "sekisho.schema": str(SCHEMA_VERSION),
        "sekisho.header": json.dumps(header_dict(batch.header)),
    }
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema().with_metadata(metadata))


def from_arrow(data: pa.RecordBatch | pa.Table) -> FlowBatch:
    """The batch of an Arrow record batch or table. Unknown columns are left out; missing nullable ones are null.

    Raises :class:`DecodeError` for a missing required column, a column of another type, or broken content.
    """
    columns: dict[str, ColumnData] = {}
    try:
        for name, column in zip(data.schema.names, data.columns, strict=True):
            if name in BY_NAME:
                columns[name] = _from_arrow(BY_NAME[name], _one(column))
        return FlowBatch.build(data.num_rows, columns, _header_of(data.schema))
    except (pa.ArrowException, ValueError, IndexError) as error:
        raise DecodeError(str(error)) from error


def encode(batch: FlowBatch, *, header: bool = True) -> bytes:
    """The batch as one Arrow IPC stream (uncompressed: whoever sends it compresses the whole message).

    Columns that are null in every row are left out, codes of texts are as narrow as their dictionary allows. Without
    ``header`` the batch's header is left to whoever carries the message.
    """
    arrays, fields = [], []
    for column, data in batch.columns():
        data = data.compact() if isinstance(data, Text) else data
        if column.null and _all_null(column, data):
            continue
        array = _to_arrow(column, data, narrow=True)
        arrays.append(array)
        fields.append(_field(column.name, array.type, column.null))
    metadata = {"sekisho.schema": str(SCHEMA_VERSION)}
    if header:
        metadata["sekisho.header"] = json.dumps(header_dict(batch.header))
    record = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as writer:
        writer.write_batch(record)
    return bytes(sink.getvalue())


class TextError(DecodeError):
    """A text that is longer than whoever decodes can take, or that has a zero in it."""


def decode(message: bytes, longest: Mapping[str, int] | None = None) -> FlowBatch:
    """The batch of an Arrow IPC stream. Raises :class:`DecodeError` for anything else, however it was made.

    All of it is checked at once; a column is unpacked when it is first asked for. ``longest``: octets that a text of each
    column may have where there are rows of stores, which alone are kept; one that is longer, or has a zero in it, raises
    :class:`TextError`.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(message)) as reader:
            records = list(reader)
            if len(records) != 1:
                return _fitting(from_arrow(pa.Table.from_batches(records, reader.schema)), longest or {})
            places, record = places_in(message, reader.schema), records[0]
            record.validate(full=True)
            for column, index in places.required:
                if record.column(index).null_count:
                    raise DecodeError(f"column {column.name} holds nulls and must not")
            for column, index in places.counts:
                check_amounts(column, record.column(index))
            return arriving(record, places, longest or {})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DecodeError(f"not an Arrow IPC stream: {error}") from error


@dataclass(frozen=True, slots=True)
class Places:
    """What a schema says: where each column of ours stands."""

    all: dict[str, int]
    required: tuple[tuple[Column, int], ...]
    counts: tuple[tuple[Column, int], ...]
    texts: tuple[tuple[str, int], ...]
    header: BatchHeader


_KNOWN_SCHEMAS: OrderedDict[bytes, Places] = OrderedDict()
_SCHEMAS = 4_096
_LARGEST_SCHEMA = 16_384


def places_in(message: bytes, schema: pa.Schema) -> Places:
    """The places of a message's schema; those of equal octets are found once. Raises :class:`DecodeError`."""
    # Continuation mark, length, then the schema: the same octets for every message of one shape.
    octets = 8 + int.from_bytes(message[4:8], "little")
    key = bytes(message[:octets]) if 8 < octets <= _LARGEST_SCHEMA else b""
    found = _KNOWN_SCHEMAS.get(key)
    if found is None:
        found = _places_of(schema)
        if key:
            _KNOWN_SCHEMAS[key] = found
            if len(_KNOWN_SCHEMAS) > _SCHEMAS:
                _KNOWN_SCHEMAS.popitem(last=False)
    return found


def _places_of(schema: pa.Schema) -> Places:
    places: dict[str, int] = {}
    for index, field in enumerate(schema):
        if field.name in BY_NAME:
            if field.name in places:
                raise DecodeError(f"column {field.name} stands there twice")
            _check_type(BY_NAME[field.name], field.type)
            places[field.name] = index
    for column in COLUMNS:
        if not column.null and column.name != "marks" and column.name not in places:
            raise DecodeError(f"column {column.name} is missing and cannot be null")
    mine = [(BY_NAME[name], index) for name, index in places.items()]
    return Places(
        places,
        tuple((column, index) for column, index in mine if not column.null),
        tuple((column, index) for column, index in mine if column.kind is Kind.COUNT),
        tuple((column.name, index) for column, index in mine if column.kind is Kind.TEXT),
        _header_of(schema),
    )


def _check_type(column: Column, kind: pa.DataType) -> None:
    if column.kind is not Kind.TEXT:
        if kind != arrow_type(column):
            raise DecodeError(f"column {column.name} is {kind}, expected {arrow_type(column)}")
        return
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if plain or (
        pa.types.is_dictionary(kind)
        and pa.types.is_string(kind.value_type)
        and pa.types.is_signed_integer(kind.index_type)
    ):
        return
    raise DecodeError(f"column {column.name} is {kind}, expected text")


def arriving(
    record: pa.RecordBatch,
    places: Places,
    longest: Mapping[str, int],
    known: Mapping[str, ColumnData] | None = None,
    totals: Mapping[str, int] | None = None,
) -> FlowBatch:
    """The batch of a record that was checked but for its texts. ``known``: columns that are unpacked already; ``totals``:
    sums of some.
    """
    keeps = "store" in places.all
    for name, index in places.texts if keeps else ():
        _check_texts(name, record.column(index), longest.get(name))

    def make(name: str) -> ColumnData | None:
        index = places.all.get(name)
        return None if index is None else unpacked(BY_NAME[name], record.column(index))

    return FlowBatch.arriving(record.num_rows, make, places.header, known, totals)


def check_amounts(column: Column, array: pa.Array) -> None:
    """Raises :class:`DecodeError` where a row has more than anybody sends."""
    values = _raw(array, np.uint64)
    if array.null_count:
        values = values[_known(array)]
    if len(values) and int(values.max()) > MOST:
        raise DecodeError(f"column {column.name} holds an amount above {MOST}; no row has that much")


def _check_texts(name: str, array: pa.Array, most: int | None) -> None:
    """Its dictionary holds no text that is too long or has a zero in it."""
    if not isinstance(array, pa.DictionaryArray):
        if most is not None and len(array):
            _check_fit(name, tuple(filter(None, array.to_pylist())), most)
        return
    values = array.dictionary
    if most is None or not len(values):
        return
    _, offsets, octets = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    first, last = int(ends[0]), int(ends[-1])
    if last - first > most and int(np.diff(ends).max()) > most:
        raise TextError(f"{name} holds a text of more than {most} octets, or with a zero in it")
    if last > first and 0 in octets.to_pybytes()[first:last]:
        raise TextError(f"{name} holds a text of more than {most} octets, or with a zero in it")


def _fitting(batch: FlowBatch, longest: Mapping[str, int]) -> FlowBatch:
    for name, most in longest.items():
        if values := batch.text(name).values:
            _check_fit(name, values, most)
    return batch


def _check_fit(name: str, texts: tuple[str, ...], most: int) -> None:
    if any(len(text.encode()) > most or "\0" in text for text in texts):
        raise TextError(f"{name} holds a text of more than {most} octets, or with a zero in it")


def header_dict(header: BatchHeader) -> dict[str, Any]:
    """A header as plain values."""
    return {
        "agent_id": header.agent_id,
        "run_id": header.run_id,
        "lane": header.lane,
        "sequence": header.sequence,
        "host": header.host,
        "collector": header.collector,
        "clock_offset_ns": header.clock_offset_ns,
        "versions": dict(header.versions),
        "account": header.account.as_dict() if header.account else None,
        "position": header.position,
    }


def _header_of(schema: pa.Schema) -> BatchHeader:
    raw = (schema.metadata or {}).get(b"sekisho.header")
    if raw is None:
        return BatchHeader()
    try:
        values = json.loads(raw)
        values.pop("account", None)
        return BatchHeader(**values)
    except (ValueError, TypeError) as error:
        raise DecodeError(f"bad batch header: {error}") from error


@functools.cache
def _field(name: str, kind: pa.DataType, null: bool) -> pa.Field:
    return pa.field(name, kind, nullable=null)


def _all_null(column: Column, data: ColumnData) -> bool:
    if isinstance(data, Text):
        return not data.values
    if not len(data):
        return False
    first, marker = data.flat[0], _marker(column)
    return bool(first == marker) and bool((data == marker).all())


def _marker(column: Column) -> Any:
    return np.uint64(column.marker) if column.kind is Kind.ADDRESS else column.marker


def _to_arrow(column: Column, data: ColumnData, *, narrow: bool = False) -> pa.Array:
    if isinstance(data, Text):
        codes = np.ascontiguousarray(data.codes, _narrowest(len(data.values)) if narrow else np.int32)
        validity = _bitmap(codes >= 0) if len(codes) and codes.min() < 0 else None
        indices = pa.Array.from_buffers(_INDEX[codes.dtype], len(codes), [validity, pa.py_buffer(codes)])
        return pa.DictionaryArray.from_arrays(indices, pa.array(data.values, pa.string()), safe=False)
    known = _known_rows(column, data) if column.null else None
    if column.kind is Kind.ADDRESS:
        numbers = data.astype(">u8")
    elif known is None:
        numbers = np.ascontiguousarray(data, _WIRE_TYPE[column.kind])
    else:
        numbers = data.astype(_WIRE_TYPE[column.kind])
    if known is not None:
        numbers[~known] = 0
    validity = None if known is None else _bitmap(known)
    return pa.Array.from_buffers(arrow_type(column), len(data), [validity, pa.py_buffer(numbers)])


def _known_rows(column: Column, data: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which rows are not null; None where all are."""
    if column.kind is Kind.ADDRESS:
        known = ~(data == _marker(column)).all(axis=1)
    elif not len(data) or data.min() >= 0:  # the marker is the one number below
        return None
    else:
        known = data != column.marker
    return None if known.all() else known


def _narrowest(values: int) -> type[np.signedinteger[Any]]:
    return np.int8 if values <= 1 << 7 else np.int16 if values <= 1 << 15 else np.int32


def _bitmap(known: NDArray[np.bool_]) -> pa.Buffer:
    """An Arrow validity bitmap."""
    return pa.py_buffer(np.packbits(known, bitorder="little"))


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


def _from_arrow(column: Column, array: pa.Array) -> ColumnData:
    """A column, checked. Raises :class:`DecodeError` and what Arrow raises."""
    _check_type(column, array.type)
    if not column.null and array.null_count:
        raise DecodeError(f"column {column.name} holds nulls and must not")
    array.validate(full=True)
    if column.kind is Kind.COUNT:
        check_amounts(column, array)
    elif column.kind is Kind.TEXT:
        _check_texts(column.name, array, None)
    return unpacked(column, array)


def unpacked(column: Column, array: pa.Array) -> ColumnData:
    """A column that was checked."""
    if column.kind is Kind.TEXT:
        return _text(array)
    values: NDArray[Any]
    if column.kind is Kind.ADDRESS:
        start, stop = array.offset, array.offset + len(array)
        octets = np.frombuffer(array.buffers()[1] or b"", np.uint8)[start * 16 : stop * 16]
        values = octets.view(">u8").astype(np.uint64).reshape(-1, 2)
        unknown: Any = np.uint64(column.marker)
    elif column.kind in _AS_IT_LIES and not array.null_count:
        return _raw(array, np.int64)
    else:
        values = _raw(array, _WIRE_TYPE[column.kind]).astype(MEMORY_TYPE[column.kind])
        unknown = column.marker
    if array.null_count:
        values[~_known(array)] = unknown
    return values


def _raw(array: pa.Array, kind: type[np.generic]) -> NDArray[Any]:
    """The numbers of an array, whatever stands where it is null."""
    values = np.frombuffer(array.buffers()[1] or b"", kind)
    return values[array.offset : array.offset + len(array)]


def _text(array: pa.Array) -> Text:
    if not isinstance(array, pa.DictionaryArray):
        array = array.dictionary_encode()
    if not len(array):
        return Text.full(0, None)
    indices, values = array.indices, array.dictionary
    codes = _raw(indices, array.type.index_type.to_pandas_dtype()).astype(np.int32)
    if indices.null_count:
        codes[~_known(indices)] = -1
    if values.null_count:
        codes[np.append(~_known(values), False)[codes]] = -1
        values = values.fill_null("")
    return Text(codes, tuple(values.to_pylist()))


def _known(array: pa.Array) -> NDArray[np.bool_]:
    """Which rows are not null."""
    bits = np.frombuffer(array.buffers()[0], np.uint8)
    start = array.offset
    return np.unpackbits(bits, bitorder="little")[start : start + len(array)].astype(bool)
