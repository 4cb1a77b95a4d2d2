"""``sekisho check``: what this host can do, what is missed, how to mend it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import socket
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from agent.cli.common import Command, Options, console, echo_json, example, json_option
from agent.core.errors import ConfigError, SekishoError
from agent.words import shown, shown_lines

if TYPE_CHECKING:
    from agent import config

State = Literal["ok", "missing", "note"]
MARKS = {"ok": ("ok", ""), "missing": ("missing", "bold red"), "note": ("note", "magenta")}
MIN_FREE_SHARE = 0.10
CAP_NET_RAW = 13
LONGEST = 2000
"""Characters of a sentence: each is ours, but holds names and errors of others."""
OUTER_END = "what is inside a tunnel or behind a proxy, VPN or CDN: the outer end is what is seen"


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
    lines, not_seen, found = _all(options)
    if as_json:
        echo_json(
            {"lines": [asdict(line) for line in lines], "not_seen": not_seen, "bypass": found}, indent=2
        )
    else:
        _show(lines, not_seen, found)
    if any(line.state == "missing" for line in lines):
        raise SystemExit(1)


def _show(lines: list[Line], not_seen: list[str], found: list[dict[str, str]]) -> None:
    from rich.text import Text

    out = console()
    for line in lines:
        word, style = MARKS[line.state]
        what = Text.assemble((f"{word:>7}", style), "  ", (shown(line.what), "bold"), ": ")
        out.print(what.append(shown_lines(line.detail, LONGEST)), soft_wrap=True)
        if line.mend:
            out.print(f"         mend: {line.mend}", soft_wrap=True)
    out.print("\nWhat capture on this host cannot see", style="bold")
    for text in not_seen:
        out.print(f"         {text}", soft_wrap=True, markup=False)
    out.print("\nWhat was found here that sends past it", style="bold")
    for one in found:
        text = f"         {one['what']}. Not seen: {one['why']}. Seen by: {one['seen_by']}"
        out.print(shown(text, LONGEST), soft_wrap=True, markup=False)
    if not found:
        out.print("         nothing", soft_wrap=True)


def survey(options: Options) -> list[Line]:
    """Every line of the check, in the order in which a person would mend them."""
    return _all(options)[0]


def _all(options: Options) -> tuple[list[Line], list[str], list[dict[str, str]]]:
    """(lines, sentences of what is not seen by nature, what was found that sends past capture)."""
    lines = [_system(), _capture(), _processes()]
    try:
        loaded = options.load()
    except ConfigError as error:
        fault = Line("settings", "missing", str(error), "correct the lines named")
        return [*lines, fault], [OUTER_END], _found("en")
    settings = loaded.settings
    lines.append(Line("settings", "ok", str(loaded.file) if loaded.file else "defaults (no file)"))
    tier_lines, not_seen = _tiers(loaded)
    lines += [_state_dir(settings), *_databases(settings), _policy(settings), *tier_lines]
    return lines, not_seen, _found(settings.language)


def missing_rights() -> str:
    """Why this process may not capture in any way, in a few words; empty if it may."""
    from agent import tiers

    lacking = _no_packet_sockets()
    if lacking and any(not tiers.hindrance(name) for name in tiers.TIERS):
        return ""
    return lacking


def _no_packet_sockets() -> str:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except PermissionError:
        return "no CAP_NET_RAW"
    except (OSError, AttributeError) as error:
        return f"no packet sockets here: {error}"
    return ""


def _system() -> Line:
    version = importlib.metadata.version("sekisho")
    return Line(
        "system",
        "ok",
        f"sekisho {version}, Python {platform.python_version()}, {platform.system()} {platform.release()}",
    )


def _capture() -> Line:
    lacking = missing_rights()
    if not lacking:
        return Line("capture", "ok", "this process may capture")
    return Line(
        "capture",
        "missing",
        lacking,
        "run as root (sudo), or give the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON for tier ebpf, CAP_NET_RAW for "
        "af_packet, or CAP_NET_ADMIN for conntrack (AmbientCapabilities= in its unit)",
    )


def _processes() -> Line:
    from collectors.host.processes import may_see_others
    from collectors.host.sockets import SocketDiag

    try:
        with SocketDiag() as diag:
            diag.read()
    except SekishoError as error:
        return Line("processes", "note", str(error), "rows carry no process, unit or container")
    if may_see_others():
        return Line("processes", "ok", "sockets (sock_diag) and the processes that hold them (/proc)")
    return Line(
        "processes",
        "note",
        "sockets of other users' processes: their user and control group (unit, container) alone, not their process",
        "run as root, or give the service CAP_SYS_PTRACE too (AmbientCapabilities=CAP_NET_RAW CAP_SYS_PTRACE)",
    )


def _state_dir(settings: config.Settings) -> Line:
    directory = settings.state_dir
    parent = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        return Line(
            "state",
            "missing",
            f"{directory} cannot be written: {error.strerror}",
            "run as root, or set state_dir to a folder of your own",
        )
    usage = shutil.disk_usage(parent)
    if usage.free < usage.total * MIN_FREE_SHARE:
        return Line(
            "state",
            "note",
            f"{directory}: less than 10 % of the volume is free",
            "the archive stops there; free some room",
        )
    return Line("state", "ok", f"{directory}, {usage.free / 1e9:.0f} GB free")


def _databases(settings: config.Settings) -> list[Line]:
    from agent import databases

    try:
        rows = databases.status(settings.databases_dir)
    except SekishoError as error:
        return [Line("databases", "note", str(error), "sekisho db install")]
    if not rows:
        return [Line("databases", "note", "none: countries and networks stay unknown", "sekisho db install")]
    return [Line(f"database {row.name}", "ok", f"{row.version}, {row.attribution}") for row in rows]


def _policy(settings: config.Settings) -> Line:
    from datetime import UTC, datetime

    from agent.config import read_policy

    try:
        policy = read_policy(settings, datetime.now(UTC).date())
    except SekishoError as error:
        return Line(
            "policy", "missing", str(error), "correct the lines named; `sekisho policy check` shows them all"
        )
    if not policy.stores:
        return Line(
            "policy",
            "note",
            "no store is registered, so no alert can come",
            "sekisho init, then name your stores",
        )
    return Line(
        "policy",
        "ok",
        f"{len(policy.stores)} stores, {len(policy.rules)} rules awake ({', '.join(policy.awake)})",
    )


def _tiers(loaded: config.Loaded) -> tuple[list[Line], list[str]]:
    """Each way of watching this host, tried, and which one runs; what the one that runs does not see."""
    from agent import tiers
    from agent.words import phrases
    from collectors.host.processes import may_see_others

    say = phrases(loaded.settings.language)
    lines = []
    tried = tiers.survey(loaded)
    for tier in tried:
        what = f"tier {tier.name}"
        gains = say(f"tier.{tier.name}")
        if tier.hindrance:
            said = "not switched on" if tier.beside else "cannot run here"
            lines.append(Line(what, "note", f"{said}: {tier.hindrance}"))
            lines.append(Line(what, "note", f"would give {gains}"))
        else:
            lines.append(Line(what, "ok", f"can run here: {gains}"))
        lines += [Line(what, "note", text) for text in tier.shortcomings]
        misses = "; ".join(say.named("not_seen", key) for key in tier.misses)
        lines.append(Line(what, "note", f"does not see: {misses}"))
    chosen, why = tiers.choose(loaded)
    runs = chosen.stages.collectors
    lines.append(Line("watched by", "ok", f"{', '.join(runs)} ({why})"))
    # What one of them sees is seen.
    each = [tier.misses for tier in tried if tier.name in runs]
    keys = [key for key in (each[0] if each else ()) if all(key in misses for misses in each)]
    if not may_see_others():
        keys.append("others_devices")
    return lines, [*(say.named("not_seen", key) for key in keys), OUTER_END]


def _found(language: str) -> list[dict[str, str]]:
    """What was found on this host that sends past capture: what, why it is not seen, who sees it."""
    from agent.words import phrases
    from collectors.host import bypass

    say = phrases(language)
    return [
        {
            "kind": one.kind,
            "what": say(f"bypass.{one.kind}.what", **one.blanks),
            "why": say(f"bypass.{one.kind}.why"),
            "seen_by": say(f"bypass.{one.kind}.seen"),
        }
        for one in bypass.survey()
    ]
