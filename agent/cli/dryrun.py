"""``sekisho db update --dry-run``: what new databases would say otherwise of where stores sent. Replaces nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.bars import Bar
from agent.cli.common import console, echo_json, point_ns, table, tell, words

if TYPE_CHECKING:
    from agent.config import Loaded
    from agent.core.stages import Enricher
    from agent.relooking import Relooked, Said
    from agent.words import Phrases

SHOWN = 20
"""Rows that are shown; --json has all."""


class _EnoughError(Exception):
    """All was asked; nothing is to be replaced."""


def show(
    loaded: Loaded, named: dict[str, Any], ask: Callable[[Path], None], since: str, *, as_json: bool
) -> None:
    """Get the databases that ``named`` says, ask the canaries, and print what changes."""
    from agent import databases
    from agent.core.clock import SystemClock

    settings = loaded.settings
    say = words(settings.language)
    since_ns = point_ns(since, "--since", SystemClock().now_ns(), settings.zone)
    found: list[Relooked] = []

    def staged(folder: Path) -> None:
        ask(folder)
        found.extend(_relooked(loaded, folder, since_ns, say))
        raise _EnoughError

    with suppress(_EnoughError):
        databases.install(settings.databases_dir, **named, staged=staged)
    if as_json:
        echo_json([asdict(one) for one in found], indent=2)
        return
    _print(found, say)


def _relooked(loaded: Loaded, folder: Path, since_ns: int, say: Phrases) -> list[Relooked]:
    from agent.config import read_ownership
    from agent.core.clock import SystemClock, when
    from agent.relooking import READ, relook
    from agent.store.asking import Question
    from agent.store.flows import ask

    settings = loaded.settings
    archive = settings.state_dir / "archive"
    if not archive.is_dir():
        return []
    before, after = _stages(loaded, settings.databases_dir), _stages(loaded, folder)
    today = when(SystemClock().now_ns()).date()
    with Bar(say("flows.reading"), octets=True) as bar:
        batches = ask(archive, Question(since_ns), columns=list(READ), progress=bar.step)
        return relook(batches, before, after, read_ownership(settings), today)


def _stages(loaded: Loaded, folder: Path) -> list[Enricher]:
    """Place and owner as the settings have them, the databases from a folder."""
    from agent.config import bare_context, read_ownership, read_policy
    from agent.core.clock import SystemClock, when
    from enrichers import geo, owner

    settings = loaded.settings
    today = when(SystemClock().now_ns()).date()
    context = replace(
        bare_context(settings),
        policy=read_policy(settings, today),
        ownership=read_ownership(settings),
    )
    named = loaded.stages.enrichers.get("geo")
    sources = (named if isinstance(named, geo.Settings) else geo.Settings()).sources(folder)
    places = geo.Geo(sources, overrides=context.policy.overrides)
    places.reload()
    return [places, owner.Settings().build(context)]


def _print(found: list[Relooked], say: Phrases) -> None:
    from agent.cli.screen import Column
    from agent.words import units

    if found:
        names = ("store", "owner_before", "owner_after")
        shown = table([*map(Column, names), Column("content_sent", right=True)], say)
        for one in found[:SHOWN]:
            shown.add_row(one.store, _word(one.before), _word(one.after), units.size(one.content_octets_out))
        console().print(shown)
    tell(say("db.dry_run", n=len(found)))


def _word(said: Said) -> str:
    return " ".join([said.country or "-", f"AS{said.asn}" if said.asn is not None else "-", said.entity])
