"""What of a batch the detector reads: the rows of stores, each with the watermark just before it. Those to external ends
and those to other own hosts (:attr:`Step.internal`) are two tables.

A :class:`Step` is all that one call does to the detector's state, as columns; packed, it is the call's delta. Whoever
takes the same steps in the same order has the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import StateError
from agent.core.flow import FlowBatch, Mark, Text, concat_text
from agent.detection.carriers import Carriers, short
from agent.detection.keys import Bools, Ints
from agent.detection.pack import pack, part, unpack
from agent.detection.sources import BEGINNING, SUSPECT_NS, Sources
from agent.detection.windows import BASE_NS

TEXTS: Final = (
    "tenant",
    "store",
    "basis",
    "initiator",
    "process",
    "vantage",
    "remote_country",
    "remote_as_org",
    "remote_provider",
    "remote_owner",
    "remote_owner_country",
    "location_confidence",
    "owner_confidence",
)
NUMBERS: Final = ("remote_asn", "protocol", "local_port", "remote_port")
AMOUNTS: Final = ("flows", "octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out")
NEAR: Final = ("internal", "private", "shared", "link_local")
"""Scopes of an other end that is another own host, or may be one."""
INTERNAL: Final = "internal."
"""Before the names of the columns of rows to such ends."""
ONWARD: Final = "onward."
"""Before the names of the columns of rows of hosts that took something from a store."""
LATEST_NS: Final = 2**62 - 1
"""In the year 2116."""
_NO_ROWS: Final = np.zeros(0, np.intp)
_OUTSIDE_RULES: Final = np.uint16(Mark.SELF | Mark.TRANSIT)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: ``take``, ``tick``, ``finish``, ``policy``, ``closed`` or ``acknowledged``."""

    kind: str
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def text(self, name: str) -> Text:
        """A text column of a take."""
        return Text(self.arrays[name].astype(np.int32), tuple(self.meta["texts"][name]))

    @property
    def rows(self) -> int:
        """Rows of a take."""
        return len(self.arrays["end_ns"])

    @property
    def internal(self) -> Step:
        """The rows of stores to other own hosts, as a take of their own: same columns, in the same order of arrival."""
        return self._other(INTERNAL)

    @property
    def onward(self) -> Step:
        """The rows of hosts that took something from a store, as :attr:`internal`: to external ends and other own hosts."""
        return self._other(ONWARD)

    def _other(self, table: str) -> Step:
        arrays = part(table, self.arrays)
        if not arrays:
            return Step("take", {"texts": {}}, {"end_ns": np.zeros(0, np.int64)})
        return Step("take", {"texts": self.meta[table.removesuffix(".")]}, arrays)

    @property
    def late(self) -> Bools:
        """Rows that ended before the watermark had been when they came; not such as wait for their minute by design."""
        late = np.asarray(self.arrays["end_ns"] < self.arrays["before_ns"])
        return late & (self.arrays["judged"] == 0) if "judged" in self.arrays else late


def admit(
    batches: Sequence[FlowBatch],
    received_ns: int | Sequence[int],
    sources: Sources,
    carriers: Carriers | None = None,
    *,
    replay: bool,
) -> Step:
    """The step of batches of any sources, in the order in which they came. Moves the sources' watermarks and
    remembers new ``carriers``; without these no row of a host without a store is read.

    ``received_ns``: when all of them were received, or each.

    Rows that are not read are never copied: of most batches they are nearly all.
    """
    ends = np.clip(np.concatenate([batch["end_ns"] for batch in batches]), 0, LATEST_NS)
    marks = np.concatenate([batch["marks"] for batch in batches])
    marked = (marks & np.uint16(Mark.CLOCK_SUSPECT)) != 0
    each = [received_ns] * len(batches) if isinstance(received_ns, int) else list(received_ns)
    received = each[0] if len(set(each)) == 1 else np.repeat(np.array(each, np.int64), [*map(len, batches)])
    suspect = np.zeros(len(ends), bool) if replay else (ends > received + SUSPECT_NS) | marked
    ends = np.where(suspect, received, ends)
    inside, wanted, near = zip(*map(_read, batches), strict=True)
    has_near = any(map(len, near))
    onward: list[Ints] = []
    if carriers is not None and (len(carriers) or has_near):
        onward = _onward(batches, near, carriers)
    counts = [sum(map(len, each)) for each in zip(wanted, near, *([onward] if onward else []), strict=True)]
    before, after = _observed(batches, each, ends, ~suspect, sources, counts)
    begins = np.cumsum([0, *map(len, batches)])[:-1].tolist()
    times = _Times(ends, before, suspect, marks)
    arrays, texts = _table(batches, wanted, begins, times)
    meta: dict[str, Any] = {"texts": texts}
    if has_near:
        inner, meta["internal"] = _table(batches, near, begins, times)
        arrays |= {INTERNAL + name: column for name, column in inner.items()}
    if any(map(len, onward)):
        inner, meta["onward"] = _table(batches, onward, begins, times)
        arrays |= {ONWARD + name: column for name, column in inner.items()}
        scopes_of = [b.text("remote_scope").take(rows) for b, rows in zip(batches, onward, strict=True)]
        is_near = np.concatenate([_is_near(scope) for scope in scopes_of])
        arrays[ONWARD + "near"] = is_near.astype(np.int64)
    if carriers is not None and carriers.news:
        meta["carriers"] = carriers.news
    step = Step("take", meta, arrays)
    seen = [(b, rows, begin) for b, rows, begin in zip(batches, inside, begins, strict=True) if len(rows)]
    step.meta.update(
        received=max(each),
        after=after,
        sources=sources.state({_source(batch) for batch in batches}),
        versions=dict(batches[-1].header.versions),
        seen=_stores_seen(seen, ends),
        reasons={
            "rows_read": step.rows,
            "rows_internal": sum(map(len, near)),
            "rows_onward": step.onward.rows,
            "rows_short_path": len(ends) - step.rows - sum(map(len, near)),
            "rows_clock_suspect": int(suspect.sum()),
            "rows_late": int(step.late.sum()),
            "rows_spread": int((arrays["end_ns"] - arrays["start_ns"] > BASE_NS).sum()),
        },
    )
    return step


@dataclass(frozen=True, slots=True)
class _Times:
    """Of all rows of a call, in order: end, watermark just before, whether the end is in doubt, marks."""

    end_ns: Ints
    before_ns: Ints
    suspect: Bools
    marks: NDArray[Any]


def _is_near(scope: Text) -> Bools:
    """Rows whose other end is another own host, or may be one."""
    near = np.zeros(len(scope.codes), bool)
    for name in NEAR:
        if name in scope.values:
            near |= scope.where(name)
    return near


def _onward(batches: Sequence[FlowBatch], near: Sequence[Ints], carriers: Carriers) -> list[Ints]:
    """Rows of each batch that left a carrier, to an external end or another own host."""
    begins = np.cumsum([0, *map(len, batches)])
    parts = list(zip(batches, near, begins[:-1].tolist(), strict=True))
    local = np.concatenate([short(b["local_address"]) for b in batches])
    rows = np.concatenate([rows + begin for _, rows, begin in parts])
    remote = np.concatenate([short(b["remote_address"][rows]) for b, rows, _ in parts])

    def split(rows: Ints, keep: Callable[[Text], Bools]) -> list[Ints]:
        cuts = np.searchsorted(rows, begins)
        each = []
        for i, b in enumerate(batches):
            mine = rows[cuts[i] : cuts[i + 1]] - begins[i]
            mine = mine[(b["marks"][mine] & _OUTSIDE_RULES) == 0]
            each.append(mine[keep(b.text("remote_scope").take(mine))] if len(mine) else mine)
        return each

    def inside(rows: Ints) -> tuple[Ints, Ints]:
        each = split(rows, _is_near)
        found = [r + begin for r, (_, _, begin) in zip(each, parts, strict=True)]
        ends = [short(b["remote_address"][r]) for r, b in zip(each, batches, strict=True)]
        return np.concatenate(found), np.concatenate(ends)

    return split(carriers.onward(local, rows, remote, inside), lambda s: _is_near(s) | s.where("external"))


def _table(
    batches: Sequence[FlowBatch], wanted: Sequence[Ints], begins: Sequence[int], times: _Times
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]]:
    """Columns and texts of some rows of each batch; ``begins``: where among all rows each batch begins."""
    read = np.concatenate(
        [_NO_ROWS, *(rows + begin for rows, begin in zip(wanted, begins, strict=True) if len(rows))]
    )
    parts = [(b, rows) for b, rows in zip(batches, wanted, strict=True) if len(rows)]

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([b[name].take(rows, axis=0) for b, rows in parts or [(batches[0], read)]])

    ends_read = times.end_ns[read]
    starts = np.clip(column("start_ns"), 0, ends_read)
    arrays: dict[str, NDArray[Any]] = {
        "start_ns": np.where(times.suspect[read], ends_read, starts),
        "end_ns": ends_read,
        "before_ns": times.before_ns[read],
        "estimated": ((times.marks[read] & np.uint16(Mark.ESTIMATED)) != 0).astype(np.int64),
        "local": column("local_address"),
        "remote": column("remote_address"),
    }
    arrays |= {name: column(name).astype(np.int64) for name in (*NUMBERS, *AMOUNTS)}
    texts: dict[str, list[str]] = {}
    for name in TEXTS:
        joined = _joined([(b.text(name), rows) for b, rows in parts])
        arrays[name], texts[name] = joined.codes.astype(np.int64), list(joined.values)
    arrays["host"], texts["host"] = _hosts(parts)
    return arrays, texts


def _read(batch: FlowBatch) -> tuple[Ints, Ints, Ints]:
    """Which rows are of a store and may be read; which of them go to an external end, and which to another own host."""
    if not batch.text("store").values:
        return _NO_ROWS, _NO_ROWS, _NO_ROWS
    rows = np.flatnonzero((batch["store"] >= 0) & ((batch["marks"] & _OUTSIDE_RULES) == 0))
    if not len(rows):
        return rows, rows, rows
    scope = batch.text("remote_scope").take(rows)
    return rows, rows[scope.where("external")], rows[_is_near(scope)]


def _observed(
    batches: Sequence[FlowBatch],
    received: Sequence[int],
    ends: Ints,
    trusted: Bools,
    sources: Sources,
    wanted: Sequence[int],
) -> tuple[Ints, int]:
    """The watermark before each row and after the last; batches of one source and time that follow each other go as one.

    ``wanted``: of how many rows of each batch the watermark is read. Where that is none, it is not told: most batches are
    such ones, and are passed by.
    """
    lengths = [*map(len, batches)]
    begins = np.cumsum([0, *lengths]).tolist()
    moving = np.append(np.where(trusted, ends, BEGINNING), BEGINNING)
    newest = np.maximum.reduceat(moving, begins[:-1]).tolist()
    before, after, first = np.zeros(len(ends), np.int64), sources.watermark, 0
    whose = [(_source(b), at) for b, at in zip(batches, received, strict=True)]
    for i, (source, at) in enumerate(whose):
        if i + 1 < len(whose) and whose[i + 1] == whose[i]:
            continue
        rows = slice(begins[first], begins[i + 1])
        if any(wanted[first : i + 1]) or not all(lengths[first : i + 1]):
            before[rows], after = sources.observe(source, ends[rows], trusted[rows], at)
        else:
            after = sources.pass_by(source, int(moving[rows.start]), max(newest[first : i + 1]), at)
        first = i + 1
    return before, after


def _source(batch: FlowBatch) -> str:
    return f"{batch.header.agent_id}|{batch.header.host}"


def _joined(columns: Sequence[tuple[Text, Ints]]) -> Text:
    """Some rows of text columns one after another, with the texts that they use."""
    parts = [
        # A few rows of a long dictionary: what they use is sooner found than the whole of it joined.
        column.take(rows).compact() if len(column.values) > len(rows) else column.take(rows)
        for column, rows in columns
    ]
    return concat_text(parts).compact()


def _hosts(parts: Sequence[tuple[FlowBatch, Ints]]) -> tuple[Ints, list[str]]:
    """Which host sent each row, as its batch's header says: codes and texts."""
    place: dict[str, int] = {}
    codes = [place.setdefault(b.header.host, len(place)) if b.header.host else -1 for b, _ in parts]
    lengths = np.array([len(rows) for _, rows in parts], np.int64)
    return np.repeat(np.array(codes, np.int64), lengths), list(place)


def _stores_seen(parts: Sequence[tuple[FlowBatch, Ints, int]], ends: Ints) -> list[list[Any]]:
    """[tenant, store, end of its first row] for each store, whatever the other end is. ``parts``: batches, which of
    their rows are of a store, and where among ``ends`` each batch begins."""
    found: dict[tuple[str, str], int] = {}
    for batch, rows, begin in parts:
        tenant, store = batch.text("tenant").take(rows), batch.text("store").take(rows)
        both = store.codes.astype(np.int64) * (len(tenant.values) + 1) + tenant.codes
        _, first = np.unique(both, return_index=True)
        for i in np.sort(first).tolist():
            of = tenant.values[tenant.codes[i]] if tenant.codes[i] >= 0 else ""
            found.setdefault((of, store.values[store.codes[i]]), int(ends[begin + rows[i]]))
    return [[*key, first_ns] for key, first_ns in found.items()]


def seen_ns(step: Step) -> Ints:
    """When each row counts as seen first: where the first of its octets counts."""
    starts, ends = step.arrays["start_ns"], step.arrays["end_ns"]
    return np.where(ends - starts > BASE_NS, starts, ends)


def packed(steps: list[Step]) -> bytes:
    """Steps as bytes."""
    meta = [{"kind": s.kind, "meta": s.meta, "arrays": list(s.arrays)} for s in steps]
    arrays = {f"{i}.{name}": array for i, s in enumerate(steps) for name, array in s.arrays.items()}
    return pack({"steps": meta}, arrays)


def unpacked(data: bytes) -> list[Step]:
    """The steps of :func:`packed`. Raises :class:`StateError` for anything else."""
    meta, arrays = unpack(data)
    try:
        return [
            Step(s["kind"], s["meta"], {name: arrays[f"{i}.{name}"] for name in s["arrays"]})
            for i, s in enumerate(meta["steps"])
        ]
    except (KeyError, TypeError) as error:
        raise StateError(f"these bytes are no step of the detector: {error}") from error
