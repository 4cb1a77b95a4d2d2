"""FlowBatch to Arrow and back. The only module that knows Arrow, so that a lighter writer can take its place.

Addresses travel as 16 bytes in network order (v4-mapped), amounts as uint64, times as nanosecond UTC timestamps,
texts as dictionaries of int32 codes, null as Arrow null.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

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

    Raises :class:`DecodeError` for a missing required column or a column of another type.
    """
    table = pa.table(data) if isinstance(data, pa.RecordBatch) else data
    columns: dict[str, ColumnData] = {}
    for name in table.column_names:
        if name in BY_NAME:
            columns[name] = _from_arrow(BY_NAME[name], table.column(name))
    try:
        return FlowBatch.build(table.num_rows, columns, _header_of(table.schema))
    except ValueError as error:
        raise DecodeError(str(error)) from error


def encode(batch: FlowBatch) -> bytes:
    """The batch as one Arrow IPC stream (uncompressed: whoever sends it compresses the whole message)."""
    record = to_arrow(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.schema) as writer:
        writer.write_batch(record)
    return bytes(sink.getvalue())


def decode(message: bytes) -> FlowBatch:
    """The batch of an Arrow IPC stream. Raises :class:`DecodeError` for anything else."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(message)) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DecodeError(f"not an Arrow IPC stream: {error}") from error
    return from_arrow(table)


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


def _to_arrow(column: Column, data: ColumnData) -> pa.Array:
    kind = arrow_type(column)
    if isinstance(data, Text):
        codes = pa.array(data.codes, pa.int32(), mask=data.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(list(data.values), pa.string()))
    if column.kind is Kind.ADDRESS:
        raw = np.ascontiguousarray(data.astype(">u8"))
        mask = (data == np.uint64(column.marker)).all(axis=1) if column.null else None
        validity = None
        if mask is not None and mask.any():
            validity = pa.py_buffer(np.packbits(~mask, bitorder="little").tobytes())
        return pa.Array.from_buffers(kind, len(data), [validity, pa.py_buffer(raw)])
    mask = data == column.marker if column.null else None
    if mask is not None and mask.any():
        data = np.where(mask, 0, data)
    else:
        mask = None
    if column.kind is Kind.TIME:
        return pa.array(data, pa.int64()).cast(kind)
    return pa.array(data.astype(kind.to_pandas_dtype()), kind, mask=mask)


def _from_arrow(column: Column, chunked: pa.ChunkedArray) -> ColumnData:
    kind = arrow_type(column)
    if column.kind is Kind.TEXT:
        if not pa.types.is_dictionary(chunked.type):
            if not pa.types.is_string(chunked.type) and not pa.types.is_large_string(chunked.type):
                raise DecodeError(f"column {column.name} is {chunked.type}, expected text")
            chunked = chunked.dictionary_encode()
        joined = chunked.unify_dictionaries().combine_chunks()
        array = joined.chunk(0) if isinstance(joined, pa.ChunkedArray) and joined.num_chunks else joined
        if not len(array):
            return Text.full(0, None)
        codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Text(codes, tuple(array.dictionary.to_pylist()))
    if chunked.type != kind:
        raise DecodeError(f"column {column.name} is {chunked.type}, expected {kind}")
    if not column.null and chunked.null_count:
        raise DecodeError(f"column {column.name} holds nulls and must not")
    array = chunked.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], kind)
    if column.kind is Kind.ADDRESS:
        raw = np.frombuffer(array.buffers()[1], np.uint8)[
            array.offset * 16 : (array.offset + len(array)) * 16
        ]
        values: Any = raw.view(">u8").astype(np.uint64).reshape(-1, 2)
        if array.null_count:
            values[np.asarray(array.is_null())] = np.uint64(column.marker)
        return np.asarray(values)
    if column.kind is Kind.TIME:
        array = array.cast(pa.int64())
    numbers: Any = array.fill_null(0).to_numpy(zero_copy_only=False).astype(MEMORY_TYPE[column.kind])
    if array.null_count:
        numbers[np.asarray(array.is_null())] = column.marker
    return np.asarray(numbers)
