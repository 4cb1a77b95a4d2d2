"""``sekisho top``: where traffic goes right now. Captures by itself; keeps nothing, decides nothing."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import click
from rich.live import Live

from agent.cli.common import Options, console, example, span_ns
from agent.cli.live import LiveView
from agent.config import Stages
from agent.core.clock import SECOND_NS
from agent.core.errors import SekishoError
from agent.look import Look


@click.command(epilog=example("top"))
@click.option("--for", "span", metavar="SPAN", help="Stop after this span, such as 30s.")
@click.option("--plain", is_flag=True, help="One table at the end instead of the live view, as when piped.")
@click.pass_obj
def command(options: Options, span: str | None, plain: bool) -> None:
    """Show where traffic goes right now, by place, network and owner. Keeps nothing and decides nothing."""
    loaded = options.load()
    loaded = replace(loaded, stages=Stages(loaded.stages.collectors, loaded.stages.enrichers, {}))
    stop = threading.Event()
    seconds = span_ns(span, "--for") / SECOND_NS if span else None
    if seconds is None and (plain or not sys.stdout.isatty()):
        seconds = 10.0
    timer = threading.Timer(seconds, stop.set) if seconds is not None else None
    look = Look(loaded, stop)
    screen = console()
    view = LiveView(
        f"sekisho top · {loaded.settings.host}",
        look.view.read,
        look.accounts.read,
        screen,
        show_cases=False,
    )
    if timer:
        timer.daemon = True
        timer.start()
    try:
        if plain or not sys.stdout.isatty():
            look.go()
            screen.print(view)
        else:
            with Live(view, console=screen, screen=True, refresh_per_second=1):
                look.go()
    finally:
        if timer:
            timer.cancel()
    if look.failures:
        raise SekishoError("; ".join(f"{name}: {error}" for name, error in look.failures.items()))
