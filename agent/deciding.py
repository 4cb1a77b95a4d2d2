"""Decide in this process: detector and state joined, one transaction for each step.

The detector's memory runs ahead of the disk only inside one call: a commit that fails is tried again, unchanged,
until it succeeds or the program stops; meanwhile no further rows are taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent import logs
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import MINUTE_NS, Clock
from agent.core.decision import Decision
from agent.core.errors import StateError, TakenOverError
from agent.core.faults import faultpoint
from agent.core.finding import (
    WAITING,
    Case,
    Destination,
    Event,
    HostTold,
    Notice,
    NoticeKind,
    Severity,
    finding_id,
)
from agent.core.flow import FlowBatch
from agent.core.message import Header
from agent.detection.claims import Claims
from agent.detection.cube import PAST_LIMIT
from agent.detection.detector import Detector
from agent.pipeline import newest
from agent.store.kept import ActionKind, Commit

if TYPE_CHECKING:  # a replay that keeps nothing loads no database
    from agent.covering.covering import Covering
    from agent.store.inputs import Intake
    from agent.store.state import State

SNAPSHOT_EVERY = 256
"""Commits between two snapshots of the detector; deltas fill the time between."""
SNAPSHOT_OCTETS = 32 * 2**20
"""Deltas between two snapshots, at most, and so what a start reads besides the snapshot."""
REFRESH_NS = MINUTE_NS
"""How far the amounts of an open case may lag behind the truth."""
PAST_LIMITS = (
    "rows_past_path_limit",
    *(f"{name}_past_path_limit" for name in PAST_LIMIT),
    "rows_past_detail_limit",
    "texts_past_limit",
)
"""Counters of a decision that say how full the detector's tables are."""
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass
class LocalDecide:
    """Implements :class:`agent.pipeline.Decide` for one process."""

    detector: Detector
    state: State
    accounts: Accounts
    clock: Clock
    host: str
    notice_sinks: tuple[str, ...] = ()
    replay: bool = False
    """The data's end is the end: evaluate all of it."""
    keeps: bool = True
    """Another run may go on from what is committed."""
    not_seen: tuple[str, ...] = ()
    """What the collectors of this run cannot see; stands in every case."""
    witnessed: Callable[[Destination], Destination] = lambda destination: destination
    """Adds what each source says of a destination when people are told of it."""
    claims: Claims = field(default_factory=Claims)
    """Host names of the other ends of stores."""
    stop: threading.Event = field(default_factory=threading.Event)
    committed: Callable[[Decision], None] = lambda _decision: None
    """Called after each commit that changed something: wakes the outbox, feeds a live view."""
    retrying: Callable[[str], None] = lambda _reason: None
    """Called before a commit that was refused is tried again."""
    covering: Covering | None = None
    """Keeps what was observed, of a run that decides only its own rows."""
    duplicates: Amounts = field(default_factory=Amounts)
    position: str = ""
    """Where in its input the last run stood at its last commit."""
    past_limits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PAST_LIMITS, 0))
    """Of this run: what found no place of its own in the detector's tables. Its amounts are counted all the same."""
    _commits: int = 0
    _delta_octets: int = 0
    _has_snapshot: bool = False
    _moved: bool = False
    _refreshed_ns: int = 0
    _action: int = 0

    def restore(self) -> None:
        """Take up where the last run of this state stopped."""
        restored = self.state.load()
        self.detector.restore(restored.snapshot, restored.deltas)
        self._has_snapshot = restored.snapshot is not None
        self._action = restored.last_action
        self.position = restored.position
        self.claims.recall(case.destination for case in self.state.cases.list_cases(WAITING))
        self._hear_people()
        self._fill()

    def take(self, batches: Sequence[FlowBatch], received_ns: int) -> None:
        """Decide and commit sealed batches. A batch that was taken before changes nothing and is counted."""
        fresh = []
        for batch in batches:
            if self.state.taken(batch.header.batch_id, None) == "new":
                fresh.append(batch)
            else:
                self.duplicates += batch.amounts()
        self._hear_people()
        if not fresh:
            return
        self._moved = True
        for batch in fresh:
            self.claims.hear(batch)
        last = fresh[-1].header
        decision = self.detector.take_all(fresh, received_ns)
        told = [b.header.position for b in fresh if b.header.position]
        position = self.position = newest(self.position, told) if told else ""
        ids = tuple((b.header.batch_id, None) for b in fresh)
        if self.covering is None:
            self._commit(decision, ids, position, last.versions)
            return
        from agent.store.inputs import Intake

        covered = self.covering.count(fresh)
        self._commit(decision, ids, position, last.versions, intake=Intake(covered=covered))
        self.covering.counted(covered)

    def take_sealed(
        self,
        batches: Sequence[FlowBatch],
        received_ns: Sequence[int],
        digests: Sequence[bytes],
        intake: Intake,
    ) -> None:
        """Decide and commit batches that came as messages, none of them taken before, together with how far that came.

        ``received_ns``: when the broker took each. There may be no batch, only progress.
        """
        self._hear_people()
        decision, versions = Decision(), None
        if batches:
            self._moved = True
            for batch in batches:
                self.claims.hear(batch)
            decision = self.detector.take_all(batches, received_ns)
            versions = batches[-1].header.versions
        faultpoint("detect.after_apply")
        ids = tuple((b.header.batch_id, digest) for b, digest in zip(batches, digests, strict=True))
        self._commit(decision, ids, versions=versions, intake=intake)

    def hear_hosts(self, header: Header) -> int:
        """Take up what a host told people by itself; with the next decision it is kept. How many findings of it name
        themselves wrongly, and so are not heard.
        """
        wrong = 0
        for one in header.alerted:
            group = (one.store, one.entity)
            if finding_id(one.tenant, one.rule, group, one.first_bucket_ns) != one.id:
                wrong += 1
                continue
            told = HostTold(host=header.host or header.agent_id, id=one.id, time_ns=one.told_ns)
            self.detector.host_told((one.tenant, one.rule, *group), told, one.first_bucket_ns)
        return wrong

    def tick(self, now_ns: int) -> None:
        """Let time pass where no rows come."""
        self._hear_people()
        decision = self.detector.tick(now_ns)
        if _matters(decision):
            self._commit(decision)
        if self._moved and now_ns - self._refreshed_ns >= REFRESH_NS:
            self._refresh(now_ns)

    def finish(self) -> None:
        """The data has ended: evaluate what is left and keep a snapshot, so that the next start is quick."""
        decision = self.detector.finish() if self.replay else self.detector.refresh()
        self._commit(decision, snapshot=True)

    def _refresh(self, now_ns: int) -> None:
        """Keep the amounts of open cases within a minute of the truth for whoever looks; nobody is told."""
        self._moved, self._refreshed_ns = False, now_ns
        decision = self.detector.refresh()
        if _matters(decision):
            self._commit(decision)

    def announce(self, event: Event, intake: Intake | None = None) -> None:
        """Tell people something about sekisho itself; ``intake`` is committed with it."""
        logs.get("runtime").info(event.name, **event.detail)
        notice = Notice(kind=NoticeKind.EVENT, time_ns=self.clock.now_ns(), host=self.host, event=event)
        self._commit(Decision(notices=(notice,)), intake=intake)

    def note(self, intake: Intake) -> None:
        """Commit what is known besides decisions, such as what agents told of themselves."""
        self._commit(Decision(), intake=intake)

    def change_policy(self, change: Callable[[Detector], Decision]) -> None:
        """Give the detector another policy and commit what follows from it."""
        self._commit(change(self.detector), snapshot=True)
        self._fill()

    def _fill(self) -> None:
        """Give the windows of a year what the ledger holds, where a rule has come that asks for it."""
        since_day = self.detector.ledger_since
        if since_day is not None:
            self._commit(self.detector.fill(self.state.ledger.days(since_day)), snapshot=True)

    def _hear_people(self) -> None:
        """Take up what people did since the last look. A snapshot keeps it in its place among the deltas."""
        try:
            actions = self.state.cases.actions_after(self._action)
        except StateError as error:
            if self.stop.is_set() or self.replay:
                raise
            logs.get("state").error("actions_not_read", reason=str(error))
            return
        for action in actions:
            if action.kind is ActionKind.CLOSE:
                self.detector.case_closed(action.case_id)
            elif action.kind is ActionKind.REOPEN:
                self.detector.case_reopened(self.state.cases.get_case(action.case_id))
            elif action.kind is ActionKind.ACK:
                self.detector.case_acknowledged(action.case_id)
            self._action = action.id
        if actions:
            self._commit(Decision(), snapshot=True)

    def _commit(
        self,
        decision: Decision,
        batches: tuple[tuple[tuple[str, str, int, int], bytes | None], ...] = (),
        position: str = "",
        versions: Mapping[str, str] | None = None,
        *,
        snapshot: bool = False,
        intake: Intake | None = None,
    ) -> None:
        decision = self._told_whole(decision)
        self._commits += 1
        self._delta_octets += len(decision.delta)
        due = snapshot or self._commits % SNAPSHOT_EVERY == 0 or self._delta_octets > SNAPSHOT_OCTETS
        # The first one names the table of owners by which the deltas after it are decided.
        due = self.keeps and (due or not self._has_snapshot)
        if due:
            self._delta_octets, self._has_snapshot = 0, True
        work = Commit(
            batches=batches,
            decision=decision,
            snapshot=self.detector.snapshot() if due else None,
            position=position,
            now_ns=self.clock.now_ns(),
            notice_sinks=self.notice_sinks,
            versions=versions or {},
            last_action=self._action,
            intake=intake,
            entity_of=self.detector.recorded_entity if decision.reclassified else None,
        )
        self._until_committed(work)
        self._note_limits(decision)
        if decision.notices or decision.cases:
            self.committed(decision)

    def _note_limits(self, decision: Decision) -> None:
        """Count what was past a limit; the first time of a run people are told."""
        found = {name: n for name, n in decision.reasons.items() if name in self.past_limits}
        is_first = bool(found) and not any(self.past_limits.values())
        for name, n in found.items():
            self.past_limits[name] += n
        if is_first:
            setting = {} if self.detector.most_paths is None else {"setting": "detect.paths"}
            detail = {**setting, **dict(sorted(found.items()))}
            if self.replay:
                logs.get("runtime").warning("detector_full", **detail)
            else:
                self.announce(Event(name="detector_full", severity=Severity.MEDIUM, detail=detail))

    def _until_committed(self, work: Commit) -> None:
        tries = 0
        while True:
            try:
                self.state.commit(work)
                return
            except TakenOverError:
                raise
            except StateError as error:
                if self.stop.is_set() or self.replay:
                    raise
                wait_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
                logs.get("state").error("commit_failed", reason=str(error), next_try_s=wait_s)
                tries += 1
                self.retrying(str(error))
                self.stop.wait(wait_s)

    def _told_whole(self, decision: Decision) -> Decision:
        """Cases with what was not seen, notices with the account besides: facts that the detector does not know."""
        return replace(
            decision,
            cases=tuple(self._with_blind_spots(case) for case in decision.cases),
            notices=tuple(self._with_account(notice) for notice in decision.notices),
        )

    def _with_blind_spots(self, case: Case) -> Case:
        told = self.claims.told(self.witnessed(case.destination))
        return case.model_copy(update={"not_seen": self.not_seen, "destination": told})

    def _with_account(self, notice: Notice) -> Notice:
        account = self.accounts.read()
        gone = sum(account.dropped.values(), Amounts())
        left_out = sum(account.excluded.values(), Amounts())
        return notice.model_copy(
            update={
                "host": (notice.case.store.host if notice.case else "") or self.host,
                "case": self._with_blind_spots(notice.case) if notice.case else None,
                "account": {
                    "captured": account.captured.octets_out,
                    "dropped": gone.octets_out,
                    "excluded": left_out.octets_out,
                },
                "lost_frames": sum(frames for frames, _ in account.lost_frames.values()),
            }
        )


def _matters(decision: Decision) -> bool:
    return bool(decision.findings or decision.cases or decision.notices or decision.ledger or decision.delta)
