"""``sekisho flows``: query the archive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli import asked
from agent.cli.bars import Bar
from agent.cli.common import Command, Options, echo, example, json_option, words

if TYPE_CHECKING:
    from agent.store.asking import Question
    from agent.store.sums import Total
    from agent.words import Phrases

SHOWN: Final = 50
"""Rows of a table unless --limit says otherwise."""
SORTS: Final = ("time", "out", "in", "total", "packets", "flows", "name")
_COLUMNS: Final = {
    "time": ("end_ns",),
    "out": ("octets_out",),
    "in": ("octets_in",),
    "total": ("octets_out", "octets_in"),
    "packets": ("packets_out", "packets_in"),
    "flows": ("flows",),
}
"""What --sort takes -> columns whose sum it sorts by; "name" is by the groups' own values."""


def _stores(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import store_names

    return store_names(ctx, parameter, begun)


def _groups(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    from agent.cli.completing import group_names

    return group_names(list(asked.GROUPS), begun)


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose rows; each may be repeated, and any of its values fits."""
    several: dict[str, Any] = {"multiple": True}
    for option in reversed(
        (
            click.option("--store", **several, shell_complete=_stores, help="Store; - is none."),
            click.option("--country", **several, metavar="CC", help="Country of the other end, such as JP."),
            click.option("--owner", **several, help="Owner on record of the other end, by id."),
            click.option("--provider", **several, help="Who runs the other end, by id."),
            click.option(
                "--network",
                **several,
                metavar="AS|NAME",
                help="AS64500, or a part of the organisation's name.",
            ),
            click.option("--remote", **several, metavar="CIDR", help="Address or network of the other end."),
            click.option("--local", **several, metavar="CIDR", help="Address or network of this end."),
            click.option(
                "--name", **several, metavar="NAME", help="Host name of the other end, where known."
            ),
            click.option("--port", **several, type=click.IntRange(0, 65535), help="Port of either end."),
            click.option(
                "--protocol", **several, metavar="NAME", help="By name (tcp, udp, sctp, …) or number."
            ),
            click.option("--process", **several, help="Name of the process, where known."),
            click.option(
                "--host",
                **several,
                help="Host that counted it, in an archive of many; * and ? fit any letters.",
            ),
            click.option("--agent", **several, metavar="ID", help="Agent that sent it, by id."),
            click.option(
                "--direction",
                **several,
                type=click.Choice(list(asked.DIRECTIONS)),
                help="Who opened the flow: out is this end, in the other.",
            ),
            click.option(
                "--flag",
                **several,
                help="What lists say of the other end: anycast, cdn, hosting, vpn, tor, relay.",
            ),
            click.option(
                "--scope",
                **several,
                metavar="SCOPE",
                help="Kind of the other end: external, internal, private, ….",
            ),
            click.option(
                "--min-octets",
                metavar="SIZE",
                help="Rows that moved at least so much both ways, such as 1MB.",
            ),
        )
    ):
        function = option(function)
    return function


@click.command(cls=Command, epilog=example("flows"))
@click.option(
    "--since",
    default="1h",
    metavar="WHEN",
    help="Flows that ended since: 2h, 7d, yesterday, 2026-11-18T16:00.",
)
@click.option("--until", metavar="WHEN", help="And before. Default: no end.")
@_filters
@click.option(
    "--by",
    "--group-by",
    "groups",
    multiple=True,
    metavar="GROUP[,GROUP]",
    shell_complete=_groups,
    help=f"Sum by these instead of listing rows: {', '.join(asked.GROUPS)}.",
)
@click.option(
    "--sort", type=click.Choice(SORTS), help="Default: rows by time, groups of time by time, others by out."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000_000),
    help=f"How many. Default: {SHOWN} in a table, all as CSV and JSON.",
)
@click.option(
    "--community-id",
    is_flag=True,
    help="Give each row its Community ID, to join it with records of Zeek or Suricata.",
)
@click.option("--total", "total_only", is_flag=True, help="The total of all that matched, and no rows.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the archive. Default: state_dir/archive.",
)
@click.option(
    "--csv",
    "csv_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="CSV into FILE, or to standard output. What a spreadsheet takes for a formula is made harmless.",
)
@json_option("JSON lines: one row or group each.")
@click.pass_obj
def command(
    options: Options,
    /,
    groups: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    community_id: bool,
    total_only: bool,
    archive: Path | None,
    csv_file: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """List or sum the flows of the archive.

    A row is what one end exchanged with another in at most a minute. Filters of different names must all fit; of
    one name any. Texts take * and ?; - stands for "not known". The last line of a table is the total of all that
    matched, shown or not.

    Times without a zone are in the setting time_zone (unset: this host's zone).
    """
    if csv_file and as_json:
        raise click.UsageError("--csv and --json exclude each other; name one")
    names = asked.groups_of(groups)
    settings = options.load().settings
    from agent.core.clock import SystemClock

    question = asked.question_of(given, SystemClock().now_ns(), settings.zone)
    query = Query(
        archive or settings.state_dir / "archive",
        question,
        names,
        settings.zone,
        sort or ("time" if not names or names[0] in asked.TIMES else "out"),
        limit or (None if csv_file or as_json else SHOWN),
        total_only,
        words(settings.language),
        community_id,
    )
    if sort == "name" and not names:
        raise click.UsageError("--sort name sorts groups; add --by")
    if community_id and (names or total_only):
        raise click.UsageError("--community-id is of single rows; leave out --by and --total")
    with _writer(csv_file, as_json) as output:
        query.run(output)


@contextmanager
def _writer(csv_file: str | None, as_json: bool) -> Iterator[Any]:
    from agent.cli import flowtables

    if as_json:
        yield flowtables.JsonOutput()
    elif csv_file == "-":
        yield flowtables.CsvOutput(sys.stdout)
    elif csv_file:
        from agent.cli.writing import written

        with written(Path(csv_file)) as file:
            yield flowtables.CsvOutput(file)
        echo(f"wrote {csv_file}", err=True)
    else:
        yield flowtables.TableOutput()


@dataclass(frozen=True)
class Query:
    """One question to the archive, and how its answer is wanted."""

    archive: Path
    question: Question
    groups: list[str]
    zone: tzinfo | None
    sort: str
    limit: int | None
    total_only: bool
    say: Phrases
    community_id: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns and buckets by which it sums."""
        return list(dict.fromkeys(c for name in self.groups for c in asked.GROUPS[name]))

    def run(self, output: Any) -> None:
        """Ask, and give the answer to ``output``."""
        if self.groups or self.total_only:
            self._sum(output)
        elif self.limit is None:
            self._all(output)
        else:
            self._list(output)

    def _sum(self, output: Any) -> None:
        from agent.store.flows import ask
        from agent.store.sums import Sums

        columns = [] if self.total_only else self.columns
        sums = Sums(columns, self.zone)
        real = [c for c in columns if c not in asked.TIMES]
        with Bar(self.say("flows.reading"), octets=True) as bar:
            for batch in ask(self.archive, self.question, columns=real, progress=bar.step):
                sums.add(batch)
        found = [] if self.total_only else self._ordered(sums.groups())
        output.sums(self, columns, found[: self.limit], len(found), sums.total())

    def _ordered(self, found: list[Total]) -> list[Total]:
        if self.sort == "name" or (self.sort == "time" and self.groups[0] in asked.TIMES):
            return sorted(found, key=lambda t: [(k is None, str(k)) for k in t.key])
        if self.sort == "time":
            return sorted(found, key=lambda t: -t.last_ns)
        names = _COLUMNS[self.sort]
        return sorted(found, key=lambda t: -sum(t.amounts[name] for name in names))

    def _list(self, output: Any) -> None:
        from agent.store.flows import ask, top
        from agent.store.sums import Sums

        assert self.limit is not None
        sums = Sums([])
        with Bar(self.say("flows.reading"), octets=True) as bar:
            found = top(self.archive, self.question, self.limit, by=_COLUMNS[self.sort], progress=bar.step)
            if output.wants_total:
                for batch in ask(self.archive, self.question, columns=[], progress=bar.step):
                    sums.add(batch)
        output.rows(self, [] if found is None else [found], sums.total())

    def _all(self, output: Any) -> None:
        """Every row, a group of rows in memory at a time: newest day first, as they lie in the archive within a day."""
        from agent.store.flows import ask

        if self.sort != "time":
            raise click.UsageError(f"--sort {self.sort} needs --limit: all rows are not held in memory")
        with Bar(self.say("flows.reading"), octets=True) as bar:
            output.rows(self, ask(self.archive, self.question, progress=bar.step), None)
