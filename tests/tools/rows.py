"""FlowBatches from a few words, and hypothesis strategies for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from agent.core import address
from agent.core.flow import COLUMNS, BatchHeader, FlowBatch, Kind, Text

DEFAULTS: dict[str, Any] = {
    "local_address": "192.0.2.1",
    "remote_address": "203.0.113.7",
    "local_port": 40000,
    "remote_port": 443,
    "protocol": 6,
    "flows": 1,
    "octets_out": 1000,
    "packets_out": 10,
    "octets_in": 500,
    "packets_in": 5,
    "content_octets_out": 480,
    "start_ns": 1_700_000_000 * 10**9,
    "end_ns": 1_700_000_001 * 10**9,
    "marks": 0,
}


def batch_of(rows: Sequence[dict[str, Any]], header: BatchHeader | None = None) -> FlowBatch:
    """A batch of rows given as dicts over ``DEFAULTS``; None is null."""
    full = [{**DEFAULTS, **row} for row in rows]
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        values = [row.get(column.name) for row in full]
        if column.kind is Kind.TEXT:
            columns[column.name] = Text.of(values)
        elif column.kind is Kind.ADDRESS:
            columns[column.name] = (
                np.vstack([address.empty(1) if v is None else address.parse([v]) for v in values])
                if values
                else address.empty(0)
            )
        else:
            columns[column.name] = np.array([column.marker if v is None else v for v in values], np.int64)
    return FlowBatch.build(len(full), columns, header)


def _values(kind: Kind) -> st.SearchStrategy[Any]:
    numbers = {
        Kind.U8: 2**8 - 1,
        Kind.PORT: 2**16 - 1,
        Kind.NUMBER: 2**32 - 1,
        Kind.FLAGS: 2**16 - 1,
        Kind.TCP_FLAGS: 2**8 - 1,
        Kind.COUNT: 2**40,
        Kind.TIME: 2**62,
    }
    if kind is Kind.TEXT:
        return st.sampled_from(["", "a", "日本", "x" * 40, "b"])
    if kind is Kind.ADDRESS:
        return st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
    return st.integers(0, numbers[kind])


ROW = st.fixed_dictionaries(
    {c.name: st.one_of(st.none(), _values(c.kind)) if c.null else _values(c.kind) for c in COLUMNS}
)
"""Any row of the schema."""

BATCHES = st.lists(ROW, max_size=8).map(batch_of)
"""Any small batch."""
