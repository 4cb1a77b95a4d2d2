"""A run of the program: stages built from settings, signals, orderly stop, reload.

``SIGINT`` and ``SIGTERM`` stop in order: collectors hand out what they hold, everything is decided and committed,
sinks are flushed, the outbox gets a few seconds. A second signal stops at once. ``SIGHUP`` reloads policy and
databases; so does a change of their files. A reload with a fault keeps the last good one and says so.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

from agent import logs
from agent.config import Loaded, Settings, agent_id, read_ownership, read_policy
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, Clock, SteadyClock, SystemClock, when
from agent.core.decision import Decision
from agent.core.errors import SekishoError, SinkError
from agent.core.finding import Destination, Event, Severity
from agent.core.flow import SCHEMA_VERSION, BatchHeader, FlowBatch
from agent.core.process import give_back, program_version, settled
from agent.core.stages import (
    Carrier,
    Collector,
    Context,
    Enricher,
    Following,
    Keeping,
    Scoped,
    Sink,
    TakesCoverage,
    Witness,
)
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.pipeline import Pipeline
from agent.policy import load as policy_files
from agent.policy.repository import marks
from agent.seal import Sealer
from agent.service import Attendant
from agent.signals import Signals
from agent.store.outbox import Outbox
from agent.store.unkept import Unkept
from agent.view import View
from collectors.host import rights

if TYPE_CHECKING:  # a run that sends nothing loads nothing of it
    from agent.covering.own import OwnCoverage
    from agent.sending.send import Send
    from agent.store.state import State

LOOK_EVERY_NS = 5 * SECOND_NS
OUTBOX_STOP_S = 10.0
OLD_DATABASE_DAYS = 45
APPROVALS_NAMED = 20
_KEPT_RIGHTS: Final = frozenset({"dac_read_search", "dac_override"})
"""Rights over files, where given: policy, databases and state may be other users'."""

Observer = Callable[[FlowBatch], None]


@dataclass
class Runtime:
    """One run: ``with Runtime(...) as run: run.go()``."""

    loaded: Loaded
    build_collectors: Callable[[Context], Mapping[str, Collector]] | None = None
    """Makes the collectors; those of the settings if None."""
    accounts: Accounts = field(default_factory=Accounts)
    clock: Clock = field(default_factory=SystemClock)
    state_path: Path | None = None
    keeps: bool = True
    """What is decided outlasts the run; else no state is opened."""
    run_id: str = ""
    replay: bool = False
    """Time is the data's, and the run ends with it. Policy and databases are those of its start."""
    comes_again: bool = False
    """See :attr:`agent.pipeline.Pipeline.comes_again`."""
    carrier: Carrier | None = None
    """Sends what is sealed to where it is decided; None decides here."""
    extra_sinks: Mapping[str, Sink] = field(default_factory=dict)
    on_decision: Callable[[Decision], None] = lambda _decision: None
    attendant: Attendant = field(default_factory=Attendant)
    """Is told how the run goes: the service manager's side."""
    stop: threading.Event = field(default_factory=threading.Event)
    _stack: ExitStack = field(default_factory=ExitStack)
    _told: set[str] = field(default_factory=set)
    """Troubles of the enrichers that people know of."""
    _policy_refused: bool = False
    """Whether the policy's files hold a fault that people were told of."""
    _steady: SteadyClock | None = None
    _own: OwnCoverage | None = None
    _unclosed: list[str] = field(default_factory=list)
    _started_ns: int = 0
    _told_ns: int = 0

    @property
    def settings(self) -> Settings:
        """The settings of this run."""
        return self.loaded.settings

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        settings = self.settings
        if not self.replay:
            self._steady = SteadyClock(self.clock)
            self.clock = self._steady
        self.policy, self.ownership = read_policy(settings, self._today()), read_ownership(settings)
        self.stamps = self._stamps()
        context = self._context()
        self.view = View(self.clock)
        build = self.build_collectors or self._of_settings
        self.collectors = dict(build(context))
        self.enrichers = self._build_enrichers(context)
        sinks = {name: s.build(context) for name, s in self.loaded.stages.sinks.items()}
        self.sinks: dict[str, Sink] = {**sinks, **self.extra_sinks}
        for sink in self.sinks.values():
            self._stack.callback(self._close, sink)
        self.state = self._open_state()
        self._stack.callback(self.state.close)
        self._assemble()

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def go(self) -> None:
        """Run to the end of the data, or until a signal. Raises what the pipeline raises."""
        settled(for_long=not self.replay)
        try:
            with Signals(self.stop, self._asked):
                self._greet()
                self._tell_standing()
                live = frozenset(name for name, one in self.collectors.items() if one.live)
                self.attendant.begins(live, self.pipeline.failures, self.stop)
                self.pipeline.run()
                if self._own is not None:
                    self._own.finish()
        finally:
            self._tell_standing()
            self.outbox.stop(deadline_s=OUTBOX_STOP_S)

    def reload(self, *, asked: bool = False) -> bool:
        """Read policy and databases again; keep the last good ones on a fault. Returns whether anything changed.

        ``asked``: by a person, who is told of a fault also if the policy's files are as they were.
        """
        changed = self._reload_policy(asked=asked)
        for enricher in self.pipeline.enrichers:
            try:
                if enricher.reload():
                    changed = True
                    self.decide.announce(
                        Event(name="data_reloaded", detail={"part": enricher.name, **enricher.versions()})
                    )
            except SekishoError as error:
                self._refused(enricher.name, error)
        return changed

    @property
    def unwritten(self) -> list[str]:
        """What sinks of flows did not take, a sentence for each; whole once the run is closed."""
        told = [
            f"{name}: {rows:,} rows were not written: {reason}"
            for name, (rows, reason) in self.pipeline.unwritten.items()
        ]
        return [*told, *self._unclosed]

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except SinkError as error:
            self._unclosed.append(f"{sink.name}: {error}")
            logs.get("runtime").error("sink_not_closed", sink=sink.name, reason=str(error))

    def _of_settings(self, context: Context) -> Mapping[str, Collector]:
        return {name: settings.build(context) for name, settings in self.loaded.stages.collectors.items()}

    def _open_state(self) -> State:
        if not self.keeps:
            return cast("State", Unkept())  # all of it that a run asks for which sends nothing
        from agent.store.state import State

        return State.open(self.state_path or self.settings.state_dir / "state.db", clock=self.clock)

    def _assemble(self) -> None:
        settings = self.settings
        notice_sinks = {name: sink for name, sink in self.sinks.items() if sink.takes_notices}
        self.outbox = Outbox(self.state, notice_sinks, self.clock, random.Random())  # noqa: S311  jitter, no secret
        header = BatchHeader(
            agent_id=agent_id(settings), run_id=self.run_id or uuid.uuid4().hex, host=settings.host
        )
        self.sends = self._sending(self.carrier, header, tuple(notice_sinks)) if self.carrier else None
        self.decide: LocalDecide | Send = self.sends or self._deciding(tuple(notice_sinks))
        self.decide.restore()
        for collector in self.collectors.values():
            if isinstance(collector, Keeping):
                collector.resume(self.decide.position)
        self.pipeline = self._make_pipeline(header)
        self._own = self._covering(header)
        self._asked = threading.Event()
        self._looked_ns = self.clock.monotonic_ns()
        self._started_ns = self.clock.now_ns()

    def _make_pipeline(self, header: BatchHeader) -> Pipeline:
        settings = self.settings
        return Pipeline(
            self.collectors,
            self.enrichers,
            Sealer(header, self.accounts, in_step=self.replay, adaptive=self.carrier is not None),
            self.decide,
            [sink for sink in self.sinks.values() if sink.takes_flows],
            self.accounts,
            self.clock,
            observe=self.view.observe,
            started=self._started,
            between=_nothing if self.replay else self._between,
            turned=self.attendant.turned,
            settle_rows=settings.commit_rows,
            comes_again=self.comes_again,
            sent=self.carrier is not None,
            stop=self.stop,
        )

    def _most_paths(self) -> int | None:
        """Networks of stores that the detector keeps apart; None: as many as one host needs."""
        return None

    def _deciding(self, notice_sinks: tuple[str, ...]) -> LocalDecide:
        settings = self.settings
        detector = Detector(
            self.policy,
            self.ownership,
            host=settings.host,
            lateness_ns=settings.lateness,
            replay=self.replay,
            comes_back=self.keeps,
            most_paths=self._most_paths(),
        )
        return LocalDecide(
            detector,
            self.state,
            self.accounts,
            self.clock,
            settings.host,
            notice_sinks=notice_sinks,
            replay=self.replay,
            keeps=self.keeps,
            stop=self.stop,
            committed=self._committed,
            retrying=self.attendant.retrying,
            not_seen=self._not_seen,
            witnessed=self._witnessed,
        )

    def _covering(self, header: BatchHeader) -> OwnCoverage | None:
        """What keeps what was observed; None where time is the data's, or whoever is sent the rows keeps it."""
        live = all(collector.live for collector in self.collectors.values())
        if self.replay or not live or not isinstance(self.decide, LocalDecide):
            return None
        from agent.observing import own_coverage

        return own_coverage(
            self.settings,
            self.decide,
            lambda: self.policy,
            [sink for sink in self.sinks.values() if isinstance(sink, TakesCoverage)],
            lambda: {
                "schema_version": SCHEMA_VERSION,
                "agent_id": header.agent_id,
                "run_id": header.run_id,
                "host": header.host,
                "account": self.accounts.read().as_dict(),
                "lanes": {
                    str(lane): {"next_sequence": n} for lane, n in self.pipeline.sealer.sequences.items()
                },
                **self._facts(),
            },
        )

    def _sending(self, carrier: Carrier, header: BatchHeader, notice_sinks: tuple[str, ...]) -> Send:
        from agent.making import local_view, sender

        sends = sender(
            self.settings,
            carrier,
            header,
            self.accounts,
            self.clock,
            self.state,
            sinks=self.sinks,
            notice_sinks=notice_sinks,
            facts=self._facts,
            committed=self._committed,
            tripwire=local_view(self.settings, self.policy, self.ownership, self.clock, self._not_seen),
        )
        self._stack.callback(sends.close)
        return sends

    @property
    def _not_seen(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(what for c in self.collectors.values() for what in c.not_seen))

    def _facts(self) -> Mapping[str, object]:
        """What heartbeats tell of this run besides its account."""
        from agent.sending import telling
        from agent.sending.send import settings_hash

        versions: dict[str, str] = {}
        for enricher in self.enrichers:
            versions |= enricher.versions()
        return {
            "version": program_version(),
            "collectors": sorted(self.collectors),
            "versions": versions,
            "policy": self.policy.version,
            "settings": settings_hash(self.settings.model_dump(mode="json")),
            "started_ns": self._started_ns,
            "probe": telling.probe(
                self.collectors,
                self.pipeline.failures,
                self.loaded.stages.collectors.values(),
                stopping=self.stop.is_set(),
            ),
            "databases": telling.ages(self.enrichers, self.clock.now_ns()),
            "stores": [store.id for store in self.policy.stores if store.recognise.is_on(self.settings.host)],
        }

    def _witnessed(self, destination: Destination) -> Destination:
        for enricher in self.pipeline.enrichers:
            if isinstance(enricher, Witness):
                destination = enricher.witnessed(destination)
        return destination

    def _started(self) -> None:
        """The collectors' threads were made, each with all rights of this one: from now on the rest needs none of them."""
        if not self.replay and os.geteuid():
            logs.get("runtime").info("rights_given_up", kept=sorted(rights.keep_only(_KEPT_RIGHTS)))
        self.outbox.start()
        if self.sends is not None:
            self.sends.start()

    def _committed(self, decision: Decision) -> None:
        self.outbox.wake()
        self.on_decision(decision)

    def _between(self) -> None:
        """The worker's chores between two batches."""
        if self._own is not None:
            self._own.turn()
        if self._asked.is_set():
            self._asked.clear()
            self.attendant.reloading()
            self.reload(asked=True)
            self._tell_troubles()
            self.attendant.reloaded()
        elif self.clock.monotonic_ns() - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = self.clock.monotonic_ns()
            self.reload()
            self._tell_troubles()
            self._tell_standing()
            give_back()

    def _tell_standing(self) -> None:
        """Write how the run stands, for ``sekisho status`` on this host."""
        if self.replay:
            return
        from agent.sending import telling

        ended = self.stop.is_set()
        try:
            telling.write(self.settings.state_dir, {**self.standing(), "ended": ended})
        except OSError as error:
            logs.get("runtime").warning("status_not_written", reason=error.strerror)

    def standing(self) -> dict[str, object]:
        """How the run stands: what heartbeats tell, and what waits on this host."""
        table = {
            "role": "alone" if self.sends is None else "agent",
            "time_ns": self.clock.now_ns(),
            "pid": os.getpid(),
            "host": self.settings.host,
            "account": self.accounts.read().as_dict(),
            **self._facts(),
        }
        if self.sends is not None:
            waiting = self.sends.spool.waiting()
            table["spool"] = {
                "octets": self.sends.spool.octets,
                "records": waiting.records,
                **waiting.amounts.as_dict(),
            }
            table["connected"] = self.sends.carrying.connected
            table["last_error"] = self.sends.carrying.last_error
        return table

    def _reload_policy(self, *, asked: bool) -> bool:
        stamps = self._stamps()
        if stamps == self.stamps and not asked:
            return False
        self.stamps = stamps
        try:
            policy, ownership = read_policy(self.settings, self._today()), read_ownership(self.settings)
            moved = ownership.version != self.ownership.version
            had = (self.policy.version, self.policy.commit)
            changed = moved or (policy.version, policy.commit) != had
            if changed:
                context = replace(self._context(), policy=policy, ownership=ownership)
                self.pipeline.enrichers = self._build_enrichers(context)
        except SekishoError as error:
            self._policy_refused = True
            self._refused("policy", error)
            return False
        if not changed and not self._policy_refused:
            return False
        self._policy_refused = False
        if changed:
            self.policy, self.ownership = policy, ownership if moved else self.ownership
            self.decide.change_policy(lambda detector: detector.set_policy(policy, self.ownership))
            for collector in self.collectors.values():
                if isinstance(collector, Following):
                    collector.follow(policy)
        versions = {"version": policy.version} | ({"ownership": ownership.version} if moved else {})
        versions |= {"commit": policy.commit} if policy.commit else {}
        self.decide.announce(Event(name="policy_reloaded", detail=dict(versions)))
        return changed

    def _tell_troubles(self) -> None:
        """Say what the enrichers' answers lack, once as long as it lasts. A replay only logs it: its notices are about
        the data.
        """
        before, self._told = self._told, set()
        now_ns = self.clock.now_ns()
        troubles = [event for enricher in self.pipeline.enrichers for event in enricher.troubles(now_ns)]
        for event in (*self._clock_troubles(), *self._approvals_due(), *troubles):
            detail = {k: v for k, v in event.detail.items() if k not in ("days", "seconds")}
            told = f"{event.name} {sorted(detail.items())}"
            self._told.add(told)
            if told in before:
                continue
            if self.replay:
                logs.get("runtime").warning(event.name, **event.detail)
            else:
                self.decide.announce(event)

    def _clock_troubles(self) -> Iterator[Event]:
        """A step of the host's clock, while it is not yet believed."""
        stepped_s = 0 if self._steady is None else self._steady.stepped_by_ns // SECOND_NS
        if stepped_s:
            detail = {"seconds": stepped_s, "direction": "ahead" if stepped_s > 0 else "back"}
            yield Event(name="clock_stepped", severity=Severity.MEDIUM, detail=dict(detail))

    def _approvals_due(self) -> Iterator[Event]:
        """Approvals that a person should look at, by their dates; told again when others join them."""
        today = self._today()
        ids = sorted(a.id for a in self.policy.approvals if a.due(today))
        if ids and not self.replay and self.sends is None:
            named = ", ".join(ids[:APPROVALS_NAMED])
            detail: dict[str, str | int] = {"approvals": named, "n": len(ids)}
            yield Event(name="approvals_due", severity=Severity.LOW, detail=detail)

    def _refused(self, part: str, error: SekishoError) -> None:
        detail = {"part": part, "reason": str(error), "kept": "the last good one"}
        self.decide.announce(Event(name="reload_refused", severity=Severity.MEDIUM, detail=dict(detail)))

    def _greet(self) -> None:
        log = logs.get("runtime")
        for collector in self.collectors.values():
            if isinstance(collector, Scoped):
                self.decide.announce(
                    Event(name="guests_watched", severity=Severity.LOW, detail=dict(collector.scope()))
                )
        self._tell_troubles()
        log.info(
            "run_started",
            host=self.settings.host,
            policy=self.policy.version,
            collectors=sorted(self.collectors),
        )

    def _build_enrichers(self, context: Context) -> list[Enricher]:
        return [settings.build(context) for settings in self.loaded.stages.enrichers.values()]

    def _context(self) -> Context:
        settings = self.settings
        return Context(
            accounts=self.accounts,
            state_dir=settings.state_dir,
            clock=self.clock,
            host=settings.host,
            policy=self.policy,
            ownership=self.ownership,
            language=settings.language,
            zone=settings.time_zone,
            kafka=settings.kafka,
        )

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        """Inode, size and change time of every policy file: tells when to read them again."""
        found = {}
        for path in (*self.settings.policy, *self.settings.overrides, *self.settings.ownership):
            found[str(path)] = (0, 0, 0)
            with contextlib.suppress(OSError):
                for file in policy_files.files_of(path):
                    stat = file.stat()
                    found[str(file)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for mark in marks((*self.settings.policy, *self.settings.overrides)):
            with contextlib.suppress(OSError):
                stat = mark.stat()
                found[str(mark)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def _today(self) -> date:
        return when(self.clock.now_ns()).date()


def _nothing() -> None:
    """No chore."""
