"""A state that nothing outlasts: a replay finds the same with it, and people are told the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.errors import SinkError
from agent.core.finding import Notice
from agent.store.kept import Commit
from agent.store.outbox import Outbox, SinkStatus
from agent.store.unkept import Unkept
from tests.tools.notices import START_NS, case, event, notice
from tests.tools.program import environment, sekisho


def _sample(home: Path, *more: str) -> dict[str, Any]:
    outcome = sekisho("replay", "--sample", "--json", *more, home=home)
    assert outcome.code == 0, outcome.err
    told: dict[str, Any] = json.loads(outcome.out)
    return told


def test_a_replay_that_keeps_nothing_tells_the_same(tmp_path: Path) -> None:
    """Account, cases and destinations do not depend on whether a folder keeps them."""
    kept = _sample(tmp_path, "--state", str(tmp_path / "kept"))
    assert kept["cases"]
    assert _sample(tmp_path) == kept


def test_a_replay_that_keeps_nothing_loads_no_database(tmp_path: Path) -> None:
    """Its start would be a fifth longer."""
    program = """
import sys
from agent import cli
try:
    cli.main(["replay", "--sample", "--json"])
finally:
    print([name for name in ("agent.store.unkept", "sqlalchemy") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "['agent.store.unkept']"


class _Paper:
    """Refuses each notice once, and ``never`` for good."""

    takes_flows, takes_notices, name = False, True, "paper"

    def __init__(self, never: str) -> None:
        self.never, self.tries, self.taken = never, list[str](), list[str]()

    def write_notice(self, notice: Notice) -> None:
        self.tries.append(notice.id)
        if notice.id == self.never:
            raise SinkError("answered 400", retriable=False)
        if self.tries.count(notice.id) == 1:
            raise SinkError("connection refused", retriable=True)
        self.taken.append(notice.id)

    def write_flows(self, _batch: object) -> None:
        raise AssertionError

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_notices_wait_for_each_sink_until_it_took_them() -> None:
    """Those of a case in order, each once, later after a failure; what is refused for good is counted as dead."""
    state, clock, paper = Unkept(), DataClock(START_NS), _Paper("B.1")
    other = _Paper("")
    outbox = Outbox(cast(Any, state), {"paper": paper, "other": other}, clock)
    told = [notice(case=case(id=id_, revision=revision)) for id_, revision in (("A", 1), ("B", 1), ("A", 2))]
    work = Commit(
        decision=Decision(notices=(*told, event())),
        position="",
        now_ns=START_NS,
        notice_sinks=("paper", "other"),
    )
    for _ in range(2):  # committed again, nothing is queued twice
        state.commit(work)
    assert outbox.status()["paper"] == SinkStatus(4, 0, 0, 0, "", 0)
    for _ in range(8):
        while outbox.step("paper"):
            pass
        clock.set(clock.now_ns() + 400 * 10**9)
    assert paper.taken == ["A.1", "A.2", f"reload_refused.{START_NS}"]
    assert (outbox.status()["paper"].waiting, outbox.status()["paper"].dead) == (0, 1)
    assert (outbox.status()["other"].waiting, other.tries) == (4, [])


def test_a_batch_is_taken_once_in_a_run() -> None:
    """What was committed before is known, whatever comes between."""
    state, batch = Unkept(), ("agent", "run", 1, 7)
    assert (state.taken(batch, None), state.streams()) == ("new", [])
    state.commit(Commit(decision=Decision(), position="", now_ns=START_NS, batches=((batch, None),)))
    assert (state.taken(batch, None), state.streams()) == ("duplicate", [batch[:3]])
    assert state.taken((*batch[:3], 6), None) == "new"
