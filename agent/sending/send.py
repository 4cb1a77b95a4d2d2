"""Send what is sealed instead of deciding it here: sign, keep on the disk, carry to Kafka.

A batch is safe once it stands in the spool; then its collector may forget it. Whatever kills the program between two
steps, each batch arrives, and what arrives twice has the same id and the same digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from agent import logs
from agent.core.accounts import Accounts, Amounts
from agent.core.clock import Clock
from agent.core.decision import Decision
from agent.core.errors import DecodeError, StateError
from agent.core.faults import faultpoint
from agent.core.finding import Event, Notice, NoticeKind
from agent.core.flow import SCHEMA_VERSION, FlowBatch
from agent.core.heartbeat import CONTEXT as HEARTBEAT_CONTEXT
from agent.core.message import Message, seal
from agent.core.stages import Carrier
from agent.detection.detector import Detector
from agent.pipeline import newest
from agent.seal import STORE_LANE
from agent.sending.carrying import Carrying, Pace
from agent.sending.identity import Identity
from agent.sending.tripwire import Tripwire
from agent.spool.journal import Entry, Journal
from agent.spool.progress import Progress
from agent.spool.spool import LANES, Spool
from agent.store.state import Commit, State

Sync = Literal["always", "seconds", "never"]
STOP_S: Final = 10.0
RECALL_OCTETS: Final = 32 * 2**20
"""Of an earlier run's rows of stores that the tripwire looks at, at most."""


@dataclass
class Pulse:
    """Makes the heartbeats of one run, and keeps the last one of a run until it is told."""

    agent_id: str
    run_id: str
    host: str
    identity: Identity
    accounts: Accounts
    clock: Clock
    spool: Spool
    progress: Mapping[int, Progress]
    folder: Path
    facts: Callable[[], Mapping[str, Any]] = dict
    """What else is told: collectors, versions, policy, hash of the settings."""
    _files: dict[bytes, Path] = field(default_factory=dict)

    def beat(self) -> tuple[bytes, bytes]:
        """Signature and heartbeat of now."""
        return self._signed(closing=False)

    def close(self) -> tuple[bytes, bytes]:
        """The end of the run, with its whole account. Kept in a file until it is told."""
        signature, beat = self._signed(closing=True)
        path = self.folder / f"closed-{self.run_id}.json"
        try:
            path.write_text(json.dumps({"signature": signature.hex(), "heartbeat": beat.decode()}))
            self._files[beat] = path
        except OSError as error:
            logs.get("sending").warning("end_of_run_not_kept", reason=error.strerror)
        return signature, beat

    def left(self) -> list[tuple[bytes, bytes]]:
        """The ends of earlier runs that nobody was told."""
        out = []
        for path in sorted(self.folder.glob("closed-*.json")):
            try:
                kept = json.loads(path.read_text())
                signature, beat = bytes.fromhex(kept["signature"]), kept["heartbeat"].encode()
            except (OSError, ValueError, KeyError, TypeError):
                path.unlink(missing_ok=True)  # a torn one is none: that run stays without an end
                continue
            self._files[beat] = path
            out.append((signature, beat))
        return out

    def told(self, heartbeat: bytes) -> None:
        """A heartbeat was taken."""
        if path := self._files.pop(heartbeat, None):
            path.unlink(missing_ok=True)

    def _signed(self, *, closing: bool) -> tuple[bytes, bytes]:
        beat = json.dumps(
            self._told(closing), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
        return self.identity.sign(HEARTBEAT_CONTEXT + beat), beat

    def _told(self, closing: bool) -> dict[str, Any]:
        waiting = self.spool.waiting()
        own = sum(progress.waiting for progress in self.progress.values())
        lanes = {
            str(lane): {
                "next_sequence": progress.next_sequence,
                "low_water": progress.low_water,
                "dropped": [list(span) for span in progress.dropped],
            }
            for lane, progress in self.progress.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "host": self.host,
            "time_ns": self.clock.now_ns(),
            "closing": closing,
            "public_key": base64.b64encode(self.identity.public).decode(),
            "clock_offset_ns": None,
            "account": self.accounts.read().as_dict(),
            "lanes": lanes,
            "spool": {
                "octets": self.spool.octets,
                "records": waiting.records,
                **waiting.amounts.as_dict(),
                "inherited_records": self.spool.inherited.records,
                "inherited_left": max(waiting.records - own, 0) if self.spool.inherited.records else 0,
                "dropped": {
                    reason: {"records": tally.records, **tally.amounts.as_dict()}
                    for reason, tally in self.spool.dropped().items()
                },
            },
            **self.facts(),
        }


@dataclass
class Send:
    """Implements :class:`agent.pipeline.Decide` for an agent whose detector is elsewhere."""

    spool: Spool
    carrier: Carrier
    identity: Identity
    agent_id: str
    run_id: str
    accounts: Accounts
    clock: Clock
    host: str
    folder: Path
    state: State
    """For what the agent tells about itself."""
    notice_sinks: tuple[str, ...] = ()
    sync: Sync = "seconds"
    in_flight_octets: int = 8 * 2**20
    pace: Pace = field(default_factory=Pace)
    facts: Callable[[], Mapping[str, Any]] = dict
    committed: Callable[[Decision], None] = lambda _decision: None
    tripwire: Tripwire | None = None
    """Tells people by itself while Kafka is away."""
    tripwire_sinks: tuple[str, ...] = ()
    duplicates: Amounts = field(default_factory=Amounts)
    """None: whoever receives tells them."""

    def __post_init__(self) -> None:
        self._progress = {lane: Progress() for lane in LANES}
        self._journal = Journal(self.folder)
        pulse = Pulse(
            self.agent_id,
            self.run_id,
            self.host,
            self.identity,
            self.accounts,
            self.clock,
            self.spool,
            self._progress,
            self.folder,
            self.facts,
        )
        self.carrying = Carrying(
            self.spool,
            self.carrier,
            self.agent_id,
            self.accounts,
            self.clock,
            pulse,
            self._progress,
            self.in_flight_octets,
            self.pace,
            jitter=random.Random(),  # noqa: S311  jitter, no secret
            sync_every_s=self.sync == "seconds",
        )

    @property
    def position(self) -> str:
        """Where each collector stood at the last group of the last run, a line each."""
        return self._journal.position

    def restore(self) -> None:
        """Finish what the last run left half done."""
        for entry in self._journal.missing({lane: self.spool.next_number(lane) for lane in LANES}):
            self.spool.append(entry.lane, entry.amounts, entry.body)
        self.spool.gone()  # of that run, whose account ended with it

    def start(self) -> None:
        """Begin to send, before the first batch is taken."""
        self._recall()
        self.carrying.start()

    def take(self, batches: Sequence[FlowBatch], received_ns: int) -> None:
        """Keep sealed batches; on return a kill of the process loses none of them."""
        del received_ns  # the receiver has its own
        told = [b.header.position for b in batches if b.header.position]
        position = newest(self._journal.position, told) if told else ""
        if position:
            self._take_whole(batches, position)
        else:
            for batch in batches:
                message = self._sealed(batch)
                self._append(batch, message, message.pack())
        if self.sync == "always":
            self._sync()
        faultpoint("send.after_append")
        self.carrying.wake()
        if self.tripwire is not None:
            self.tripwire.see(batches)

    def _take_whole(self, batches: Sequence[FlowBatch], position: str) -> None:
        """All or nothing, together with the position behind them."""
        numbers = {lane: self.spool.next_number(lane) for lane in LANES}
        entries = []
        for batch in batches:
            lane = batch.header.lane
            message = self._sealed(batch)
            entries.append((Entry(lane, numbers[lane], batch.amounts(), message.pack()), batch, message))
            numbers[lane] += 1
        try:
            self._journal.write(position, [entry for entry, _, _ in entries], sync=self.sync == "always")
        except OSError as error:
            logs.get("sending").error(
                "group_not_written",
                reason=error.strerror,
                cost="after a crash these rows may come twice, under other numbers",
            )
        for entry, batch, message in entries:
            self._append(batch, message, entry.body)

    def _sealed(self, batch: FlowBatch) -> Message:
        progress = self._progress[batch.header.lane]
        with self.carrying.lock:
            low_water, dropped = progress.low_water, progress.dropped
        whole = batch.with_header(account=self.accounts.read())
        return seal(
            whole,
            self.identity.sign,
            low_water=low_water,
            dropped=dropped,
            key=self.identity.public,
            alerted=self.tripwire.alerted if self.tripwire else (),
        )

    def _append(self, batch: FlowBatch, message: Message, body: bytes) -> None:
        lane, sequence = batch.header.lane, batch.header.sequence
        amounts = batch.amounts()
        with self.carrying.lock:
            number = self.spool.next_number(lane)
            if self.spool.append(lane, amounts, body):
                self.accounts.spool(amounts)
                self._progress[lane].appended(sequence, number)
                self.carrying.offer(lane, number, amounts, message)
                self.carrying.hear_gone()
            else:
                self.carrying.hear_gone()
                self._progress[lane].never_kept(sequence)

    def _sync(self) -> None:
        try:
            self.spool.sync()
        except StateError as error:
            logs.get("sending").error("spool_not_synced", reason=str(error))

    def tick(self, now_ns: int) -> None:
        """Let the tripwire look, which asks whether anything of what waits was taken of late."""
        if self.tripwire is not None:
            carries = (self.carrying.acknowledged, self.spool.waiting().records == 0)
            self.tripwire.turn(now_ns, *carries, tell=self._tell)

    def _recall(self) -> None:
        """Show the tripwire the rows of stores that the last run could not send."""
        if self.tripwire is None:
            return
        seen = 0
        while seen < RECALL_OCTETS and (records := self.spool.take(STORE_LANE, RECALL_OCTETS // 8)):
            for record in records:
                seen += len(record.body)
                try:
                    message = Message.unpack(record.body)
                    self.tripwire.see([message.batch(message.read_header())])
                except DecodeError:
                    continue  # counted when it is sent
        self.spool.rewind()

    def finish(self) -> None:
        """The data has ended: send what can be sent in a few seconds, and tell the end of the run."""
        self.carrying.stop(STOP_S, closing=True)

    def close(self) -> None:
        """Let go of connection and spool; what is in it waits for the next run."""
        self.carrying.stop(0.0, closing=False)
        self.spool.close()

    def announce(self, event: Event) -> None:
        """Tell people something about sekisho itself, by the sinks of this host."""
        logs.get("runtime").info(event.name, **event.detail)
        notice = Notice(kind=NoticeKind.EVENT, time_ns=self.clock.now_ns(), host=self.host, event=event)
        self._keep(notice, self.notice_sinks)

    def _tell(self, notice: Notice) -> bool:
        """Tell people of traffic, by the sinks that need no Kafka. Whether it is kept for them."""
        logs.get("tripwire").warning("tripwire_alerted", notice=notice.id, sinks=list(self.tripwire_sinks))
        return self._keep(notice, self.tripwire_sinks)

    def _keep(self, notice: Notice, sinks: tuple[str, ...]) -> bool:
        decision = Decision(notices=(notice,))
        try:
            self.state.commit(
                Commit(
                    batches=(),
                    decision=decision,
                    snapshot=None,
                    position="",
                    now_ns=self.clock.now_ns(),
                    notice_sinks=sinks,
                    versions={},
                    last_action=0,
                )
            )
        except StateError as error:
            logs.get("runtime").error("notice_not_kept", notice=notice.id, reason=str(error))
            return False
        self.committed(decision)
        return True

    def change_policy(self, change: Callable[[Detector], Decision]) -> None:
        """The detector elsewhere has its own; the tripwire takes it up."""
        if self.tripwire is not None:
            change(self.tripwire.detector)


def settings_hash(plain: Any) -> str:
    """A digest of settings, so that the detector sees that they changed; ``plain`` is what JSON can hold."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
