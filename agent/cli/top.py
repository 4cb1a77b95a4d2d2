"""``sekisho top``: where traffic goes right now. Captures by itself; keeps nothing, decides nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import Command, Options, console, echo_json, example, json_option, span_ns, words

if TYPE_CHECKING:
    from agent.look import Look
    from agent.view import DestinationLine, Reading
    from agent.words import Phrases

ONCE_S = 10.0
"""How long a single look takes unless --for says otherwise."""
LINES = 1000


@click.command(cls=Command, epilog=example("top"))
@click.option(
    "--for", "span", metavar="SPAN", help="Stop after this span, such as 30s. Default: until q or Ctrl-C."
)
@click.option(
    "--once", "--plain", "once", is_flag=True, help="One table after 10s (or --for), as when piped."
)
@click.option(
    "--sort",
    type=click.Choice(["rate", "minute", "out", "in", "flows", "country", "network", "owner", "store"]),
    default="rate",
    help="What lines are sorted by; keys change it while it runs.",
)
@click.option(
    "--every", metavar="SPAN", default="10s", help="With --json: a line each time so much has passed."
)
@json_option("JSON lines, one reading each; with --once a single one.")
@click.pass_obj
def command(options: Options, span: str | None, once: bool, sort: str, every: str, as_json: bool) -> None:
    """Show where traffic goes right now, by place, network and owner. Keeps nothing and decides nothing."""
    from dataclasses import replace

    from agent.cli.screen import is_terminal
    from agent.config import Stages
    from agent.core.clock import SECOND_NS
    from agent.core.errors import SekishoError
    from agent.look import Look

    seconds = span_ns(span, "--for") / SECOND_NS if span else None
    every_s = max(span_ns(every, "--every") / SECOND_NS, 1.0)
    loaded = options.load()
    loaded = replace(loaded, stages=Stages(loaded.stages.collectors, loaded.stages.enrichers, {}))
    drawn = not once and not as_json and is_terminal(sys.stdout)
    if seconds is None and not drawn and (once or not as_json):
        seconds = ONCE_S
    stop = threading.Event()
    look = Look(loaded, stop)
    with _after(seconds, stop.set):
        if as_json:
            _lines(look, stop, sort, None if once else every_s)
        else:
            say = words(loaded.settings.language)
            _show(look, stop, f"sekisho top · {loaded.settings.host}", say, sort, drawn=drawn)
    if look.failures:
        raise SekishoError("; ".join(f"{name}: {error}" for name, error in look.failures.items()))


def destination(line: DestinationLine) -> dict[str, Any]:
    """What is told of one destination as plain values for JSON."""
    from agent.view import UNKNOWN

    return {
        "country": line.country,
        "network": None if line.network == UNKNOWN else line.network,
        "names": list(line.names),
        "provider": line.provider,
        "owner": line.owner,
        "owner_country": line.owner_country,
        "stores": sorted(line.stores),
        "octets_out": line.octets_out,
        "octets_in": line.octets_in,
        "flows": line.flows,
    }


def document(reading: Reading, account: dict[str, Any]) -> dict[str, Any]:
    """A reading as plain values for JSON. Keys stand in docs/cli.md."""

    now_s = reading.now_ns // 10**9
    return {
        "since_ns": reading.since_ns,
        "time_ns": reading.now_ns,
        "octets_out": reading.octets_out,
        "octets_in": reading.octets_in,
        "flows": reading.flows,
        "internal_octets_out": reading.internal_out,
        "destinations": [
            {
                **destination(line),
                "octets_out_per_s_10s": round(line.rate(now_s), 1),
                "octets_out_per_s_60s": round(line.rate(now_s, 60), 1),
            }
            for line in reading.destinations
        ],
        "account": account,
    }


def _lines(look: Look, stop: threading.Event, sort: str, every_s: float | None) -> None:
    """A line each ``every_s`` seconds and one at the end; None: that one alone."""

    def say() -> None:
        echo_json(document(look.view.read(LINES, sort), look.accounts.read().as_dict()))
        sys.stdout.flush()

    def tell() -> None:
        try:
            while not stop.wait(every_s):
                say()
        except OSError:  # whoever read it has gone
            stop.set()

    teller = threading.Thread(target=tell, name="readings", daemon=True)
    if every_s is not None:
        teller.start()
    look.go()
    stop.set()
    if teller.ident is not None:
        teller.join(timeout=2.0)
    say()


def _show(look: Look, stop: threading.Event, title: str, say: Phrases, sort: str, *, drawn: bool) -> None:
    from agent.cli.live import LiveView, live

    screen = console()
    view = LiveView(
        title, look.view.read, look.accounts.read, screen, say, show_cases=False, sort=sort, keyed=drawn
    )
    if drawn:
        with live(view, screen, stop):
            look.go()
    else:
        look.go()
        screen.print(view)


@contextmanager
def _after(seconds: float | None, act: Callable[[], None]) -> Iterator[None]:
    """Do something after so many seconds, unless the block ends before."""
    timer = threading.Timer(seconds or 0, act)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
