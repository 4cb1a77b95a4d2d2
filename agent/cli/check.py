"""``sekisho check``: what this host can do, what is missed, how to mend it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from agent.cli.common import (
    Command,
    Options,
    console,
    echo_json,
    example,
    json_option,
    language_of,
    paper,
    size,
    words,
)
from agent.core.errors import ConfigError, SekishoError
from agent.words import shown
from agent.words.folding import columns, fold

if TYPE_CHECKING:
    from agent import config
    from agent.tiers import Tier
    from agent.words import Phrases

State = Literal["ok", "missing", "note"]
STYLES: dict[State, str] = {"ok": "", "missing": "bold red", "note": "magenta"}
MIN_FREE_SHARE = 0.10
CAP_NET_RAW = 13
LONGEST = 2000
"""Characters of a sentence: each is ours, but holds names and errors of others."""


@dataclass(frozen=True)
class Line:
    """One finding of the check."""

    what: str
    state: State
    detail: str
    mend: str = ""


@click.command(cls=Command, epilog=example("check"))
@json_option("One JSON document instead of the table.")
@click.pass_obj
def command(options: Options, as_json: bool) -> None:
    """Say what this host can do, what is missed, and how to mend it. Exit code 1 if `sekisho up` could not run."""
    say = words("en" if as_json else language_of(options))
    lines, not_seen, found = _all(options, say)
    if as_json:
        echo_json(
            {"lines": [asdict(line) for line in lines], "not_seen": not_seen, "bypass": found}, indent=2
        )
    else:
        _print(lines, not_seen, found, say)
    if any(line.state == "missing" for line in lines):
        raise SystemExit(1)


def _print(lines: list[Line], not_seen: list[str], found: list[dict[str, str]], say: Phrases) -> None:
    from rich.text import Text

    out, width = console(), paper()
    indent = max(columns(say(f"check.{state}")) for state in STYLES) + 2
    for line in lines:
        what = say("check.line", what=shown(line.what))
        mark = say(f"check.{line.state}")
        head = " " * (indent - 2 - columns(mark)) + mark + "  "
        text = Text("\n").join(map(Text, _under(head, what + line.detail, indent, width)))
        text.stylize(STYLES[line.state], 0, len(head))
        text.stylize("bold", len(head), len(head) + len(what))
        out.print(text, soft_wrap=True)
        if line.mend:
            out.print("\n".join(_under("", say("check.mend", how=line.mend), indent, width)), soft_wrap=True)
    out.print("\n" + say("check.not_seen"), style="bold")
    for said in not_seen:
        out.print("\n".join(_under("", said, indent, width)), soft_wrap=True)
    out.print("\n" + say("check.found"), style="bold")
    for said in [say("check.one_found", **one) for one in found] or [say("check.nothing_found")]:
        out.print("\n".join(_under("", said, indent, width)), soft_wrap=True)


def _under(head: str, text: str, indent: int, width: int | None) -> list[str]:
    """Lines beside a head, all in one column, folded where the width is known."""
    first, *rest = (shown(line, LONGEST) for line in text.splitlines() or [""])
    whole = [(head or " " * indent) + first, *(" " * indent + line for line in rest)]
    return [part for line in whole for part in fold(line, width, indent)] if width else whole


def survey(options: Options, say: Phrases) -> list[Line]:
    """Every line of the check, in the order in which a person would mend them."""
    return _all(options, say)[0]


def _all(options: Options, say: Phrases) -> tuple[list[Line], list[str], list[dict[str, str]]]:
    """(lines, sentences of what is not seen by nature, what was found that sends past capture)."""
    told = _Telling(say)
    lines = [told.system(), told.capture(), told.processes()]
    try:
        loaded = options.load()
    except ConfigError as error:
        lines.append(told.line("settings", "missing", str(error), "mend_lines"))
        return lines, [say("check.outer_end")], _found(say)
    settings = loaded.settings
    lines.append(told.line("settings", "ok", str(loaded.file) if loaded.file else say("check.defaults")))
    tier_lines, not_seen = told.tiers(loaded)
    lines += [told.state_dir(settings), *told.databases(settings), told.policy(settings), *tier_lines]
    return lines, not_seen, _found(say)


def missing_rights(say: Phrases) -> str:
    """Why this process may not capture in any way, in a few words; empty if it may."""
    from agent import tiers

    lacking = _no_packet_sockets(say)
    if lacking and any(not tiers.hindrance(name) for name in tiers.TIERS):
        return ""
    return lacking


def _no_packet_sockets(say: Phrases) -> str:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except PermissionError:
        return say("check.no_cap_net_raw")
    except (OSError, AttributeError) as error:
        return say("check.no_packet_sockets", reason=error)
    return ""


@dataclass(frozen=True)
class _Telling:
    """Looks at each part of the host, and says what it found."""

    say: Phrases

    def line(self, what: str, state: State, detail: str, mend: str = "", **names: str) -> Line:
        """``what`` and ``mend`` are phrases."""
        how = self.say(f"check.{mend}") if mend else ""
        return Line(self.say(f"check.what.{what}", **names), state, detail, how)

    def system(self) -> Line:
        version = importlib.metadata.version("sekisho")
        host = f"{platform.system()} {platform.release()}"
        return self.line("system", "ok", f"sekisho {version}, Python {platform.python_version()}, {host}")

    def capture(self) -> Line:
        if lacking := missing_rights(self.say):
            return self.line("capture", "missing", lacking, "mend_capture")
        return self.line("capture", "ok", self.say("check.may_capture"))

    def processes(self) -> Line:
        from collectors.host.processes import may_see_others
        from collectors.host.sockets import SocketDiag

        try:
            with SocketDiag() as diag:
                diag.read()
        except SekishoError as error:
            return self.line("processes", "note", f"{error}; {self.say('check.no_processes')}")
        if may_see_others():
            return self.line("processes", "ok", self.say("check.processes"))
        return self.line("processes", "note", self.say("check.own_processes"), "mend_processes")

    def state_dir(self, settings: config.Settings) -> Line:
        directory = settings.state_dir
        parent = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            refused = self.say("check.cannot_write", directory=directory, reason=error.strerror)
            return self.line("state", "missing", refused, "mend_write")
        usage = shutil.disk_usage(parent)
        if usage.free < usage.total * MIN_FREE_SHARE:
            return self.line("state", "note", self.say("check.nearly_full", directory=directory), "mend_full")
        return self.line("state", "ok", self.say("check.free", directory=directory, size=size(usage.free)))

    def databases(self, settings: config.Settings) -> list[Line]:
        from agent import databases

        try:
            rows = databases.status(settings.databases_dir)
        except SekishoError as error:
            return [self.line("databases", "note", str(error), "mend_databases")]
        if not rows:
            return [self.line("databases", "note", self.say("check.no_databases"), "mend_databases")]
        return [
            self.line(
                "database",
                "ok",
                self.say.join([said for said in (row.version, row.attribution) if said]),
                name=row.name,
            )
            for row in rows
        ]

    def policy(self, settings: config.Settings) -> Line:
        from datetime import UTC, datetime

        from agent.config import read_ownership, read_policy

        try:
            policy = read_policy(settings, datetime.now(UTC).date())
            read_ownership(settings)
        except SekishoError as error:
            return self.line("policy", "missing", str(error), "mend_policy")
        if not policy.stores:
            return self.line("policy", "note", self.say("check.no_store"), "mend_store")
        packs = self.say.join(policy.awake)
        told = self.say("check.policy", n=len(policy.stores), rules=len(policy.rules), packs=packs)
        return self.line("policy", "ok", told)

    def tiers(self, loaded: config.Loaded) -> tuple[list[Line], list[str]]:
        """Each way of watching this host, tried, and which one runs; what the one that runs does not see."""
        from agent import tiers
        from collectors.host.processes import may_see_others

        say = self.say
        tried = tiers.survey(loaded)
        lines = [line for tier in tried for line in self.tier(tier)]
        chosen, why = tiers.choose(loaded)
        runs = chosen.stages.collectors
        said = {tiers.AS_SET: say("check.as_settings"), tiers.BEST: say("check.best")}
        told = say("check.chosen", name=say.join(list(runs)), why=said.get(why, why))
        lines.append(self.line("watched_by", "ok", told))
        # What one of them sees is seen.
        each = [tier.misses for tier in tried if tier.name in runs]
        keys = [key for key in (each[0] if each else ()) if all(key in misses for misses in each)]
        if not may_see_others():
            keys.append("others_devices")
        return lines, [*(say.named("not_seen", key) for key in keys), say("check.outer_end")]

    def tier(self, tier: Tier) -> Iterator[Line]:
        """One way of watching: whether it can run, what it gives, lacks and cannot see."""
        say = self.say
        gains = say(f"tier.{tier.name}")
        if tier.hindrance:
            key = "check.tier_off" if tier.beside else "check.tier_cannot"
            yield self.line("tier", "note", say(key, reason=tier.hindrance), name=tier.name)
            yield self.line("tier", "note", say("check.tier_gives", gains=gains), name=tier.name)
        else:
            yield self.line("tier", "ok", say("check.tier_can", gains=gains), name=tier.name)
        for text in tier.shortcomings:
            yield self.line("tier", "note", text, name=tier.name)
        misses = say("who.also").join(say.named("not_seen", key) for key in tier.misses)
        yield self.line("tier", "note", say("check.tier_misses", misses=misses), name=tier.name)


def _found(say: Phrases) -> list[dict[str, str]]:
    """What was found on this host that sends past capture: what, why it is not seen, who sees it."""
    from collectors.host import bypass

    return [
        {
            "kind": one.kind,
            "what": say(f"bypass.{one.kind}.what", **one.blanks),
            "why": say(f"bypass.{one.kind}.why"),
            "seen_by": say(f"bypass.{one.kind}.seen"),
        }
        for one in bypass.survey()
    ]
