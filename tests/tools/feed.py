"""A whole run in this process over rows given by a test: collector, policy and outcome in a few words."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import config
from agent.core.accounts import Account, Accounts
from agent.core.decision import Decision
from agent.core.finding import Case, Finding, Notice
from agent.core.flow import FlowBatch
from agent.runtime import Runtime
from tests.tools.siege import left_behind


class Feed:
    """A collector that brings the batches it was given."""

    name = "feed"
    live = False
    not_seen: tuple[str, ...] = ()

    def __init__(self, accounts: Accounts, batches: Sequence[FlowBatch]) -> None:
        self._accounts, self._batches = accounts, batches

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Each batch, until stop."""
        for batch in self._batches:
            if stop.is_set():
                return
            self._accounts.capture(batch.amounts(), held_in="batches")
            yield batch

    def progress(self) -> None:
        """Unknown."""


@dataclass
class Outcome:
    """What a run said and left behind."""

    account: Account
    findings: dict[str, Finding]
    cases: dict[str, Case]
    notices: list[Notice]
    left: dict[str, Any] = field(repr=False)

    def found(self) -> set[tuple[Any, ...]]:
        """The findings as definitions compare them, with their ids."""
        return {
            (f.id, *f.key, f.first_bucket_ns, f.last_bucket_ns, f.content_octets_out, f.state, f.severity)
            for f in self.findings.values()
        }


def run(
    folder: Path,
    batches: Sequence[FlowBatch],
    policy: Path,
    overrides: Path,
    *,
    commit_rows: int = 50_000,
    stop_after: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """A replay of the batches into the state in ``folder``, going on with what is there; ``stop_after`` so many
    decisions it is asked to stop."""
    file = folder / "sekisho.yaml"
    folder.mkdir(exist_ok=True)
    file.write_text("version: 1\n")
    values = {
        "state_dir": str(folder),
        "host": "db-01",
        "policy": [str(policy)],
        "overrides": [str(overrides)],
    }
    flags = [*values.items(), ("commit_rows", commit_rows), *(settings or {}).items()]
    loaded = config.load(file, environ={}, flags=flags)
    stop = threading.Event()
    notices: list[Notice] = []
    decisions = 0

    def hear(decision: Decision) -> None:
        notices.extend(decision.notices)

    with Runtime(
        loaded,
        build_collectors=lambda context: {"feed": Feed(context.accounts, batches)},
        run_id="run",
        replay=True,
        comes_again=True,
        on_decision=hear,
        stop=stop,
    ) as runtime:
        take = runtime.decide.take

        def counted(sealed: Sequence[FlowBatch], received_ns: int) -> None:
            nonlocal decisions
            take(sealed, received_ns)
            decisions += 1
            if decisions == stop_after:
                stop.set()

        runtime.decide.take = counted  # type: ignore[method-assign]
        runtime.go()
        assert runtime.pipeline.failures == {}
        findings = {f.id: f for f in runtime.state.cases.findings_of()}
        cases = {c.id: c for c in runtime.state.cases.list_cases()}
        account = runtime.accounts.read()
    return Outcome(account, findings, cases, notices, left_behind(folder / "state.db"))
