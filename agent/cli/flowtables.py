"""How ``sekisho flows`` answers: a table, CSV or JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.cells import cell_len

from agent.cli.asked import NAMES_OF_PROTOCOLS, TIMES
from agent.cli.common import console, echo, echo_json, moment, place, size, table
from agent.cli.screen import WHOLE, Column, is_measured, is_plain, sparkline
from agent.core.clock import SystemClock, iso
from agent.core.flow import BY_NAME, COLUMNS, FlowBatch, Kind
from agent.words.escape import csv_text
from agent.words.units import Number, time_range

if TYPE_CHECKING:
    from agent.cli.flows import Query
    from agent.store.sums import Total
    from agent.words import Phrases

AMOUNTS: Final = (
    "octets_out",
    "octets_in",
    "packets_out",
    "packets_in",
    "content_octets_out",
    "flows",
    "rows",
)
COMMUNITY: Final = "community_id"
TOTAL_KEYS: Final = (*AMOUNTS, "start_ns", "end_ns")


class TableOutput:
    """For people."""

    wants_total = True

    def sums(self, query: Query, names: list[str], found: list[Total], count: int, total: Total) -> None:
        """Groups, then the total of all."""
        out = console()
        if found:
            made = table(
                [
                    *(Column(name, rank=_rank(name, i), least=_least(name)) for i, name in enumerate(names)),
                    Column("octets_out", right=True),
                    Column("octets_in", right=True, rank=5),
                    Column("flows", right=True, rank=6),
                    Column("over_time", rank=7, least=WHOLE),
                ],
                query.say,
            )
            plain = is_plain(out)
            for group in found:
                out_, in_, *_, flows = group.amounts.values()
                course = "" if group.series is None else _course(group.series, plain)
                keys = (_shown(name, value, query.say) for name, value in zip(names, group.key, strict=True))
                made.add_row(*keys, size(out_), size(in_), f"{flows:,}", course)
            out.print(made)
        self._total(query, total, "flows.more_groups", len(found), count)

    def rows(self, query: Query, batches: Iterable[FlowBatch], total: Total) -> None:
        """Rows, then the total of all."""
        found = list(_rows(query, batches))
        is_named = any(row["remote_name"] for row in found)
        made = table(
            [
                Column(query.say("column.end", zone=_zone(query)), rank=1, least=WHOLE),
                Column("local_address", rank=6, least=WHOLE),
                Column("remote_address", least=WHOLE),
                *([Column("remote_name", rank=6)] if is_named else []),
                Column("remote_country", rank=3, least=5),
                Column("remote_as_org", rank=5),
                Column("remote_owner", rank=4),
                Column("process", rank=8),
                Column("store", rank=2),
                Column("octets_out", right=True),
                Column("octets_in", right=True, rank=7),
                *([Column("community_id", least=WHOLE)] if query.community_id else []),
            ],
            query.say,
        )
        for row in found:
            made.add_row(
                moment(row["end_ns"], query.zone)[:19],
                _end(row["local_address"], row["local_port"]),
                _end(row["remote_address"], row["remote_port"]),
                *([row["remote_name"] or "-"] if is_named else []),
                place(row["remote_country"]),
                row["remote_as_org"] or "-",
                row["remote_owner"] or "-",
                row["process"] or "-",
                row["store"] or "-",
                size(row["octets_out"]),
                size(row["octets_in"]),
                *([row[COMMUNITY] or "-"] if query.community_id else []),
            )
        if made.body:
            console().print(made)
        self._total(query, total, "flows.more_rows", len(found), total.rows)

    def _total(self, query: Query, total: Total, more: str, shown: int, there: int) -> None:
        say = query.say
        if not total.rows:
            echo(say("flows.none_fits" if _is_filtered(query) else "flows.none"))
            return
        out, amounts = console(), total.amounts
        said = say(
            "flows.total",
            n=Number(amounts["flows"]),
            out=size(amounts["octets_out"]),
            octets=f"{amounts['octets_out']:,}",
            in_=size(amounts["octets_in"]),
            rows=f"{total.rows:,}",
            range=time_range(total.first_ns, total.last_ns, query.zone)[0],
        )
        out.print(said, style="bold", soft_wrap=not is_measured(out))
        if total.series and len(total.series) > 1:
            room = out.width - cell_len(say("flows.over_time", bars=""))
            bars = _course(total.series, is_plain(out), room)
            out.print(say("flows.over_time", bars=bars), no_wrap=True)
        if there > shown:
            out.print(say(more, shown=f"{shown:,}", all=f"{there:,}"), style="dim")


class JsonOutput:
    """For programs: one object a line. Keys of rows are the columns of the schema."""

    wants_total = False

    def sums(self, query: Query, names: list[str], found: list[Total], count: int, total: Total) -> None:
        """One line for each group, or the total alone."""
        for group in [total] if query.total_only else found:
            echo_json(
                {
                    **dict(zip(names, group.key, strict=False)),
                    **dict(zip(TOTAL_KEYS, _amounts(group), strict=True)),
                    "over_time": _over_time(group),
                }
            )

    def rows(self, query: Query, batches: Iterable[FlowBatch], total: Total | None) -> None:
        """One line for each row."""
        for row in _rows(query, batches):
            echo_json(row)


class CsvOutput:
    """For spreadsheets: texts are quoted and none is a formula; times are RFC 3339 in UTC; unknown is empty."""

    wants_total = False

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")

    def sums(self, query: Query, names: list[str], found: list[Total], count: int, total: Total) -> None:
        """A head, then one line for each group, or for the total alone."""
        self._writer.writerow([*names, *AMOUNTS, "start", "end"])
        for group in [total] if query.total_only else found:
            *amounts, first, last = _amounts(group)
            keys = (_cell(value) for value in group.key)
            self._writer.writerow([*keys, *amounts, iso(first), iso(last)])

    def rows(self, query: Query, batches: Iterable[FlowBatch], total: Total | None) -> None:
        """A head, then one line for each row."""
        names = [column.name.removesuffix("_ns") for column in COLUMNS]
        self._writer.writerow([*names, *([COMMUNITY] if query.community_id else [])])
        times = {column.name for column in COLUMNS if column.kind is Kind.TIME}
        for row in _rows(query, batches):
            self._writer.writerow([iso(v) if n in times else _cell(v) for n, v in row.items()])


def _rows(query: Query, batches: Iterable[FlowBatch]) -> Iterator[dict[str, Any]]:
    """Each row as a dict, with its Community ID where that was asked for."""
    for batch in batches:
        if not query.community_id:
            yield from batch.rows()
            continue
        from agent.core.community import community_ids

        for row, id_ in zip(batch.rows(), community_ids(batch), strict=True):
            yield {**row, COMMUNITY: id_}


def _amounts(group: Total) -> tuple[int, ...]:
    return (*group.amounts.values(), group.rows, group.first_ns, group.last_ns)


def _over_time(group: Total) -> dict[str, Any] | None:
    if group.series is None:
        return None
    return {"start_ns": group.series_from_ns, "step_ns": group.series_step_ns, "octets_out": group.series}


def _cell(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else "" if value is None else value


def _course(series: tuple[int, ...], plain: bool, room: int = 32) -> str:
    """At most 32 bars, or ``room`` if that is less."""
    step = -(-len(series) // max(min(room, 32), 1)) or 1
    return sparkline([sum(series[i : i + step]) for i in range(0, len(series), step)], plain=plain)


def _rank(name: str, place: int) -> int:
    """What was asked for stays longest, times always: without them rows of different times look alike."""
    if name in TIMES:
        return 0
    return 8 if name == "remote_owner_country" else max(0, place - 1)


def _least(name: str) -> int:
    """Addresses and times are not cut: the rest of one is another."""
    return WHOLE if name in TIMES or BY_NAME[name].kind is Kind.ADDRESS else 8


def _zone(query: Query) -> str:
    until_ns = query.question.until_ns or SystemClock().now_ns()
    return moment(until_ns, query.zone)[20:]


def _shown(name: str, value: Any, say: Phrases) -> str:
    if value is None:
        return "-"
    if name == "protocol":
        return NAMES_OF_PROTOCOLS.get(value, str(value))
    if name == "initiator":
        return say("flows.this_end" if value == "local" else "flows.other_end")
    if name in TIMES:
        return str(value)[: 10 if name == "day" else 16].replace("T", " ")
    return str(value)


def _is_filtered(query: Query) -> bool:
    asked = query.question
    return bool(
        asked.texts
        or asked.numbers
        or asked.networks
        or asked.ports
        or asked.least_octets
        or asked.organisations
    )


def _end(address: str, port: int | None) -> str:
    shown = f"[{address}]" if ":" in address and port is not None else address
    return shown if port is None else f"{shown}:{port}"
