"""``sekisho ledger``: copies of the state, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.bars import Bar
from agent.cli.common import (
    Group,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    table,
    tell,
    words,
)

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.store.database import Database
    from agent.store.keeping import Check
    from agent.words import Phrases


@click.group(cls=Group, epilog=example("ledger"))
def command() -> None:
    """Copy the state, put a copy back, and look through it.

    The state holds the ledger of twelve months, agents' keys, findings and cases. It is the embedded file, or the
    PostgreSQL database of `detect.database`; a copy is one file that fits both.
    """


@command.command(epilog=example("ledger backup"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace a copy of that name.")
@json_option("The copy as one JSON document: digest, rows of each table.")
@click.pass_obj
def backup(options: Options, file: Path, overwrite: bool, as_json: bool) -> None:
    """Copy the state as of one moment into FILE, while sekisho goes on. FILE.json beside it holds its digest."""
    from agent.core.clock import SystemClock
    from agent.store import keeping

    settings = options.load().settings
    say = words(settings.language)
    with _database(settings) as database, Bar(say("ledger.copying")) as bar:
        made = keeping.backup(
            database, file, now_ns=SystemClock().now_ns(), overwrite=overwrite, progress=bar.step
        )
    if as_json:
        echo_json(asdict(made), indent=2)
    else:
        rows = f"{made.rows.get('ledger', 0):,}"
        echo(say("ledger.copied", file=str(file), rows=rows, digest=made.sha256))


@command.command(epilog=example("ledger restore"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--overwrite", is_flag=True, help="Put a state that is there aside, or replace it in PostgreSQL."
)
@json_option("The copy that was put back as one JSON document.")
@click.pass_obj
def restore(options: Options, file: Path, overwrite: bool, as_json: bool) -> None:
    """Put the copy FILE in place of the state. Stop sekisho first; what came after the copy is read again from Kafka."""
    from agent.store import keeping

    settings = options.load().settings
    say = words(settings.language)
    with Bar(say("ledger.restoring")) as bar:
        if settings.detect.database is None:
            path = settings.state_dir / "state.db"
            made = keeping.restore_file(file, path, overwrite=overwrite, progress=bar.step)
        else:
            from agent.store.postgres import unled

            with unled(settings.detect.database) as database:
                made = keeping.restore_rows(file, database, overwrite=overwrite, progress=bar.step)
    if as_json:
        echo_json(asdict(made), indent=2)
    else:
        echo(say("ledger.restored", file=str(file), rows=f"{made.rows.get('ledger', 0):,}"))


@command.command(epilog=example("ledger verify"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@json_option("JSON lines, one check each.")
@click.pass_context
def verify(ctx: click.Context, file: Path | None, as_json: bool) -> None:
    """Look whether the state, or the copy FILE, is whole. Exit code 1 where something is not as it must be."""
    from agent.core.clock import SystemClock
    from agent.store import keeping

    options: Options = ctx.obj
    settings = options.load().settings
    say = words(settings.language)
    now_ns = SystemClock().now_ns()
    with Bar(say("ledger.verifying")) as bar:
        if file is not None:
            checks = keeping.verify_copy(file, now_ns=now_ns)
        else:
            with _database(settings) as database:
                checks = keeping.verify(database, now_ns=now_ns, progress=bar.step)
    if as_json:
        for check in checks:
            echo_json({**asdict(check), "holds": check.holds})
    else:
        _show(checks, say)
    if not all(check.holds for check in checks):
        ctx.exit(1)


def _show(checks: list[Check], say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    shown = table(
        [Column("check", least=WHOLE), Column("faults", right=True), Column("rows", right=True)], say
    )
    for check in checks:
        shown.add_row(say(f"ledger.check.{check.name}"), f"{check.faults:,}", f"{check.looked_at:,}")
    console().print(shown)
    for check in checks:
        for one in check.examples:
            tell(f"{say(f'ledger.check.{check.name}')}: {one}")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The state's database, for reading. Raises :class:`StateError`."""
    from agent.core.clock import SystemClock
    from agent.store.database import open_database
    from agent.store.state import BUSY_TIMEOUT_S

    now_ns = SystemClock().now_ns()
    database: Database
    if settings.detect.database is None:
        path = settings.state_dir / "state.db"
        database = open_database(
            path, create=False, whole=False, now_ns=now_ns, busy_timeout_s=BUSY_TIMEOUT_S
        )
    else:
        from agent.store.postgres import a_holder, open_postgres

        database = open_postgres(
            settings.detect.database,
            holder=a_holder(),
            create=False,
            now_ns=now_ns,
            busy_timeout_s=BUSY_TIMEOUT_S,
        )
    database.read_only = True
    try:
        yield database
    finally:
        database.close()
