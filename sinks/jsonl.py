"""Flows and notices as JSON lines, to a file or to standard output (``-``).

Each line is one object with ``record`` ``flow``, ``versions``, ``notice`` or ``coverage``. Of flows every column stands under its own
name: null as null, addresses as text, times as RFC 3339 in UTC to the nanosecond. What the facts of a flow are from (each
database and list with its version and hash) would be a quarter of its line, so ``versions`` of a flow is the ``id`` of a
``versions`` line, which each file holds before the first flow that names it. Notices are every field of
:class:`agent.core.finding.Notice` and its ``id``; coverage is what its topic has of receipts and hours. Lines are made a column at a time; a column with one value in the
whole batch costs nothing per row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.core.address import text_of
from agent.core.community import community_ids
from agent.core.finding import Notice
from agent.core.flow import Column, ColumnData, FlowBatch, Kind, Text
from agent.core.stages import Context, SinkSettings
from agent.policy.model import Octets
from agent.words.escape import harmless_json
from sinks.lines import Lines


class Settings(SinkSettings):
    """Where JSON lines go, and which."""

    file: str = Field("-", description="File, or - for standard output")
    flows: bool = Field(True, description="Write flows")
    notices: bool = Field(True, description="Write notices")
    coverage: bool = Field(
        True,
        description="Write receipts and hours of what was observed, where the run decides in its own process",
    )
    community_id: bool = Field(
        False, description="Add the community ID of each flow, as Zeek and Suricata compute it"
    )
    rotate_octets: Octets | None = Field(
        None, description="Begin a new file at this size, such as 1 GB; none never"
    )
    keep: int = Field(5, ge=1, le=1000, description="How many full files stay")

    def build(self, context: Context) -> JsonLines:
        """Make the sink; opens nothing yet."""
        return JsonLines(self)


class JsonLines:
    """Writes each batch at once; ``flush`` makes it durable."""

    name = "jsonl"

    def __init__(self, settings: Settings) -> None:
        self.takes_flows, self.takes_notices = settings.flows, settings.notices
        self.takes_coverage = settings.coverage
        self._community_id = settings.community_id
        self._lines = Lines(settings.file, rotate_octets=settings.rotate_octets, keep=settings.keep)

    def write_flows(self, batch: FlowBatch) -> None:
        """Append a line for each row. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.write(
            flow_lines(batch, community_id=self._community_id), versions_line(batch.header.versions)
        )

    def write_notice(self, notice: Notice) -> None:
        """Append the notice and make it durable. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.write(notice_line(notice))
        self._lines.flush()

    def write_coverage(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append a line for each record and make them durable. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.write(b"".join(coverage_line(record) for record in records))
        self._lines.flush()

    def flush(self) -> None:
        """Make what was taken durable. Raises :class:`~agent.core.errors.SinkError`."""
        self._lines.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._lines.close()


def notice_line(notice: Notice) -> bytes:
    """The notice as one JSON object and a line feed."""
    return _dumps({"record": "notice", "id": notice.id} | notice.model_dump(mode="json")).encode() + b"\n"


def coverage_line(record: Mapping[str, Any]) -> bytes:
    """A receipt, or hours of a host, as one JSON object and a line feed."""
    return _dumps({"record": "coverage", **record}).encode() + b"\n"


def versions_line(versions: Mapping[str, str]) -> bytes:
    """What facts are from, as one JSON object and a line feed; empty for none."""
    if not versions:
        return b""
    named = {"record": "versions", "id": _versions_id(versions), "versions": dict(versions)}
    return _dumps(named).encode() + b"\n"


def _versions_id(versions: Mapping[str, str]) -> str:
    """The same for the same versions, whichever run or host writes it: 16 hex digits of SHA-256."""
    return hashlib.sha256(_dumps(dict(sorted(versions.items()))).encode()).hexdigest()[:16]


def flow_lines(batch: FlowBatch, *, community_id: bool = False) -> bytes:
    """The rows as JSON objects, a line each; empty for no rows. ``community_id`` is a field of its own, last."""
    n = len(batch)
    if not n:
        return b""
    header: dict[str, Any] = {"record": "flow", "run_id": batch.header.run_id}
    batch = batch.named()
    if batch.header.versions:
        header["versions"] = _versions_id(batch.header.versions)
    template = _dumps(header)[:-1].replace("%", "%%")
    varying: list[list[str]] = []
    for column, data in batch.columns():
        template += f',"{column.name}":'
        values = _texts(column, data)
        if isinstance(values, str):
            template += values.replace("%", "%%")
        else:
            template += "%s"
            varying.append(values)
    if community_id:
        template += ',"community_id":%s'
        varying.append([_dumps(text) for text in community_ids(batch)])
    template += "}\n"
    if not varying:
        return ((template % ()) * n).encode()
    return "".join([template % row for row in zip(*varying, strict=True)]).encode()


def _texts(column: Column, data: ColumnData) -> str | list[str]:
    """The column's values as JSON; one text if all rows have the same."""
    if isinstance(data, Text):
        words = [*map(_dumps, data.values), "null"]
        return _by_code(data.codes, words)
    if column.kind is Kind.ADDRESS:
        pairs, codes = np.unique(data, axis=0, return_inverse=True)
        return _by_code(codes.reshape(-1), [_dumps(text_of(high, low)) for high, low in pairs.tolist()])
    if _uniform(data):
        one = int(data[0])
        return "null" if column.null and one == column.marker else _number(column, data[:1])[0]
    values = _number(column, data)
    if column.null:
        for i in np.flatnonzero(data == column.marker).tolist():
            values[i] = "null"
    return values


def _by_code(codes: NDArray[Any], words: list[str]) -> str | list[str]:
    if _uniform(codes):
        return words[int(codes[0])]
    return [words[code] for code in codes.tolist()]


def _uniform(values: NDArray[Any]) -> bool:
    return bool((values == values[0]).all())


def _number(column: Column, data: NDArray[Any]) -> list[str]:
    if column.kind is Kind.TIME:
        stamps = np.datetime_as_string(data.astype("datetime64[ns]"), unit="ns")
        return [f'"{stamp}Z"' for stamp in stamps.tolist()]
    return list(map(str, data.tolist()))


def _dumps(value: Any) -> str:
    return harmless_json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
