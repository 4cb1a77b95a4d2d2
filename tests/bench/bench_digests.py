"""What it takes to commit the digests of messages, in PostgreSQL beside SQLite

    python -m tests.bench digests [COMMITS]     # 200

Each commit holds the digests of 1,000 messages of 1,000 agents and nothing else: what is left of a detector's step when a
fleet sends small messages. Both wait for the disk, as they do at work; PostgreSQL is a server of its own on this host,
reached by its socket. They take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.store.sequences import BatchId
from agent.store.state import Commit, State
from tests.bench.page import SCALING, Report
from tests.tools.postgres import serving
from tests.tools.states import Place

COMMITS: Final = 200
MESSAGES: Final = 1_000
WARM: Final = 10
"""Commits that are not counted: files grow, statements are prepared."""
NOW_NS: Final = 1_763_679_600 * 10**9


@dataclass
class Took:
    """What the counted commits of one database took."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of this process; a server's own is not in it."""

    @property
    def messages_a_second(self) -> float:
        """By the median commit."""
        return MESSAGES / median(self.wall_s)


def digests(commit: int) -> tuple[tuple[BatchId, bytes], ...]:
    """Those of one commit: the next message of each agent."""
    return tuple(
        ((f"agent-{n:04}", "0" * 32, 1, commit), hashlib.sha256(b"%d %d" % (n, commit)).digest())
        for n in range(MESSAGES)
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, print, write the page."""
    commits = int(arguments[0]) if arguments else COMMITS
    with tempfile.TemporaryDirectory(prefix="sekisho-digests-") as name, serving(durable=True) as server:
        places = {"SQLite": Place(Path(name) / "state.db"), "PostgreSQL": Place(server.fresh())}
        told(measured(places, commits), partial=commits < COMMITS).publish()


def measured(places: dict[str, Place], commits: int) -> dict[str, Took]:
    """What each took; every digest is asked for again at the end."""
    clock = DataClock(NOW_NS)
    took = {name: Took() for name in places}
    with ExitStack() as held:
        states = {name: held.enter_context(place.open(clock)) for name, place in places.items()}
        for number in range(WARM + commits):
            work = Commit(Decision(), "", NOW_NS, digests(number))
            for name, state in states.items():
                wall_s, cpu_s = one(state, work)
                if number >= WARM:
                    took[name].wall_s.append(wall_s)
                    took[name].cpu_s.append(cpu_s)
        for state in states.values():
            for number in (0, WARM + commits - 1):
                assert {state.taken(*each) for each in digests(number)} == {"duplicate"}
                assert {state.taken(batch, b"x" * 32) for batch, _ in digests(number)} == {"conflict"}
    return took


def one(state: State, work: Commit) -> tuple[float, float]:
    """Seconds until a commit is durable, and seconds of this process's CPU in it."""
    cpu, wall = os.times(), time.perf_counter()
    state.commit(work)
    wall_s, after = time.perf_counter() - wall, os.times()
    return wall_s, after.user + after.system - cpu.user - cpu.system


def told(took: dict[str, Took], *, partial: bool) -> Report:
    """As a table."""
    rows = [["state in", "median commit", "slowest in 20", "messages/s", "CPU of the detector, a commit"]]
    for name, one in took.items():
        slow_s = sorted(one.wall_s)[-max(1, len(one.wall_s) // 20)]
        rows.append(
            [
                name,
                f"{1000 * median(one.wall_s):.1f} ms",
                f"{1000 * slow_s:.1f} ms",
                f"{one.messages_a_second:,.0f}",
                f"{1000 * sum(one.cpu_s) / len(one.cpu_s):.1f} ms",
            ]
        )
    ratio = median(took["PostgreSQL"].wall_s) / median(took["SQLite"].wall_s)
    rows.append(["PostgreSQL / SQLite", f"{ratio:.2f}", "", "", ""])
    notes = (
        f"{len(took['SQLite'].wall_s)} commits of {MESSAGES:,} digests each, the two in turn, after {WARM} that are not counted; "
        "durable: each waits for the disk; the server on this host, by its socket",
    )
    return Report(
        "digests",
        f"Digests of {MESSAGES:,} messages, committed",
        rows,
        (),
        notes,
        partial=partial,
        page=SCALING,
    )
