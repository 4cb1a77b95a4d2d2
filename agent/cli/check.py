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
from agent.words import shown

if TYPE_CHECKING:
    from agent import config

State = Literal["ok", "missing", "note"]
MARKS = {"ok": ("ok", ""), "missing": ("missing", "bold red"), "note": ("note", "magenta")}
MIN_FREE_SHARE = 0.10
CAP_NET_RAW = 13
TIER_GAINS = {
    "ebpf": "exact counts of every socket in every container, each with its process; survives a crash of the agent",
    "af_packet": "exact counts of every packet on this host's interfaces, up to about 150,000 a second",
}
BLIND = (
    "traffic that bypasses the kernel's network stack (DPDK, RDMA, AF_XDP, SR-IOV functions given to guests)",
    "tier ebpf: frames that are routed through this host for others, or sent by packet sockets (AF_PACKET)",
    "tier af_packet: which process opened a connection that lived less than a second or two",
    "tier af_packet: which process sent what inside a container's own network namespace",
    "what is inside a tunnel or behind a proxy, VPN or CDN: the outer end is what is seen",
)


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
    lines = survey(options)
    if as_json:
        echo_json({"lines": [asdict(line) for line in lines], "not_seen": list(BLIND)}, indent=2)
    else:
        from rich.text import Text

        out = console()
        for line in lines:
            word, style = MARKS[line.state]
            what = Text.assemble((f"{word:>7}", style), "  ", (shown(line.what), "bold"), ": ")
            out.print(what.append("\n".join(map(shown, line.detail.splitlines()))), soft_wrap=True)
            if line.mend:
                out.print(f"         mend: {line.mend}", soft_wrap=True)
        out.print("\nWhat capture on this host cannot see", style="bold")
        for text in BLIND:
            out.print(f"         {text}", soft_wrap=True)
    if any(line.state == "missing" for line in lines):
        raise SystemExit(1)


def survey(options: Options) -> list[Line]:
    """Every line of the check, in the order in which a person would mend them."""
    lines = [_system(), _capture(), _processes()]
    try:
        loaded = options.load()
    except ConfigError as error:
        return [*lines, Line("settings", "missing", str(error), "correct the lines named")]
    settings = loaded.settings
    lines.append(Line("settings", "ok", str(loaded.file) if loaded.file else "defaults (no file)"))
    lines += [_state_dir(settings), *_databases(settings), _policy(settings), *_tiers(loaded)]
    return lines


def missing_rights() -> str:
    """Why this process may not capture in any way, in a few words; empty if it may."""
    from agent import tiers

    lacking = _no_packet_sockets()
    if lacking and any(not tiers.hindrance(name) for name in tiers.TIERS[:-1]):
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
        "af_packet (AmbientCapabilities= in its unit)",
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


def _tiers(loaded: config.Loaded) -> list[Line]:
    """Each way of watching this host, tried, and which one runs."""
    from agent import tiers

    lines = []
    for tier in tiers.survey(loaded):
        gains = TIER_GAINS[tier.name]
        if tier.hindrance:
            lines.append(
                Line(f"tier {tier.name}", "note", f"cannot run here: {tier.hindrance}", f"(gives {gains})")
            )
        else:
            lines.append(Line(f"tier {tier.name}", "ok", f"can run here: {gains}"))
        lines += [Line(f"tier {tier.name}", "note", text) for text in tier.shortcomings]
    chosen, why = tiers.choose(loaded)
    lines.append(Line("watched by", "ok", f"{', '.join(chosen.stages.collectors)} ({why})"))
    return lines
