"""What each role tells its monitoring: readings of :mod:`agent.metrics` from the counters of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, get_args, runtime_checkable

from agent.config import Settings
from agent.core.accounts import Account, Amounts
from agent.core.clock import SECOND_NS, Clock
from agent.core.decision import Decision
from agent.core.finding import NoticeKind
from agent.core.message import Reason
from agent.core.process import program_version
from agent.metrics import Histogram, Reading, Role
from agent.runtime import Runtime
from agent.seal import STOPPED
from agent.sending.send import Send

if TYPE_CHECKING:  # an agent loads none of what only the others need
    from agent.metrics_server import Served
    from agent.receiving.archiving import CopyRuntime
    from agent.receiving.detecting import DetectRuntime

SPOOL_REASONS: Final = (
    "spool_full",
    "spool_disk_full",
    "spool_unwritable",
    "spool_corrupt",
    "record_too_large",
    "refused_by_broker",
)
"""What the spool may let go for: counted from zero on."""
UNEXPLAINED: Final = 0.01
"""A larger share of a host's octets in no row is worth a look."""
_DIRECTIONS: Final = ("out", "in")


@runtime_checkable
class Overflowing(Protocol):
    """A collector whose map in the kernel may be too small."""

    overflowed: Amounts


def serve(
    settings: Settings, read: Callable[[], Reading]
) -> AbstractContextManager[Served] | AbstractContextManager[None]:
    """Serve the readings where the settings say; nothing where they say nothing."""
    if settings.metrics.listen is None:
        return nullcontext()
    from agent.metrics_server import Served

    return Served(settings.metrics.listen, read)


def of_agent(run: Runtime | None) -> Reading:
    """The agent's figures; before the run is set up only that it is there."""
    reading = _begun("agent")
    if run is None:
        return reading
    failures = run.pipeline.failures
    for name, collector in run.collectors.items():
        reading.put("capture_collector_running", float(name not in failures), name)
        overflowed = collector.overflowed if isinstance(collector, Overflowing) else Amounts()
        _put_octets(reading, "capture_map_overflow_octets", overflowed)
    _put_account(reading, run.accounts.read())
    if isinstance(run.decide, Send):
        _put_sending(reading, run.decide)
    return reading


def _put_account(reading: Reading, account: Account) -> None:
    reading.put("capture_flows", account.captured.flows)
    _put_octets(reading, "capture_octets", account.captured)
    reading.put("seal_flows", account.sealed.flows)
    _put_octets(reading, "seal_octets", account.sealed)
    dropped = {STOPPED: Amounts(), **account.dropped}
    for name, by_reason in (("excluded", account.excluded), ("dropped", dropped)):
        for reason, amounts in by_reason.items():
            reading.put(f"capture_{name}_flows", amounts.flows, reason)
            _put_octets(reading, f"capture_{name}_octets", amounts, reason)
    for reason, (frames, _) in account.lost_frames.items():
        reading.put("capture_lost_frames", frames, reason)
    for reason, unobserved in account.unobserved.items():
        reading.put("capture_unobserved_seconds", unobserved.seconds, reason)
    for place, amounts in (("kernel", account.in_kernel), ("memory", account.in_memory)):
        _put_octets(reading, "capture_pending_octets", amounts, place)
    for line, amounts in (("captured", account.residue), ("sealed", account.sealed_residue)):
        _put_octets(reading, "account_residue_octets", amounts, line)
    if account.reconciled is not None:
        beside = account.reconciled
        if (share := beside.unexplained_share_out) is not None:
            reading.put("capture_unexplained_share", share)
        amounts = Amounts(0, beside.unexplained_out, beside.unexplained_in)
        _put_octets(reading, "capture_unexplained_octets", amounts)
    reading.put("spool_delivered_flows", account.acked.flows)
    _put_octets(reading, "spool_delivered_octets", account.acked)
    reading.put("spool_waiting_flows", account.spooled.flows)
    _put_octets(reading, "spool_waiting_octets", account.spooled)
    for reason in dict.fromkeys((*SPOOL_REASONS, *account.spool_dropped)):
        amounts = account.spool_dropped.get(reason, Amounts())
        reading.put("spool_dropped_flows", amounts.flows, reason)
        _put_octets(reading, "spool_dropped_octets", amounts, reason)


def _put_sending(reading: Reading, sending: Send) -> None:
    reading.put("spool_disk_octets", sending.spool.octets)
    reading.put("spool_records", sending.spool.waiting().records)
    reading.put("send_connected", float(sending.carrying.connected))
    if sending.carrying.acknowledged_ns:
        at_s = sending.carrying.acknowledged_ns / SECOND_NS
        reading.put("send_last_acknowledged_timestamp_seconds", at_s)


_CROSSINGS = (NoticeKind.OPENED, NoticeKind.SEVERITY, NoticeKind.PACK)
"""Notices that say that a threshold was crossed; the others come by the clock."""


@dataclass
class DetectorFigures:
    """The detector's figures, with how long notices took."""

    clock: Clock
    delays: Histogram = field(default_factory=Histogram)

    def heard(self, decision: Decision) -> None:
        """A decision was committed."""
        now_ns = self.clock.now_ns()
        for notice in decision.notices:
            if notice.case is not None and notice.kind in _CROSSINGS:
                crossed_ns = max((f.crossed_ns for f in notice.case.findings), default=now_ns)
                self.delays.observe(max(0.0, (now_ns - crossed_ns) / SECOND_NS))

    def read(self, run: DetectRuntime | None) -> Reading:
        """All figures; while it stands by only that it does."""
        reading = _begun("detector")
        reading.put_histogram("detect_alert_delay_seconds", self.delays)
        reading.put("detect_leader", float(run is not None))
        if run is None:
            return reading
        counts = run.stream.counts
        if counts.lag >= 0:
            reading.put("detect_lag_messages", counts.lag)
        reading.put("detect_messages", counts.messages)
        reading.put("detect_message_octets", counts.octets)
        reading.put("detect_rows", counts.rows)
        reading.put("detect_commits", counts.commits)
        reading.put("detect_duplicate_messages", counts.duplicates)
        _put_reasons(reading, "detect_dead_messages", counts.dead)
        reading.put("detect_dead_unsent_messages", counts.dead_unsent)
        reading.put("detect_missing_batches", run.stream.gaps.missing())
        reading.put("detect_derived_rows", counts.derived)
        for column in ("store", "remote_country", "remote_owner"):
            reading.put("detect_differing_rows", counts.differing.get(column, 0), column)
        past = run.past_limits
        for table in ("path", "detail"):
            reading.put("detect_past_limit_rows", past[f"rows_past_{table}_limit"], f"{table}s")
        reading.put("detect_past_limit_flows", past["flows_past_path_limit"])
        for direction in _DIRECTIONS:
            reading.put("detect_past_limit_octets", past[f"octets_{direction}_past_path_limit"], direction)
        if run.stream.agents is not None:
            known = list(run.stream.agents.covering.agents.values())
            _put_unexplained(reading, [one.newest_account for one in known if one.state != "never"])
        return reading


def _put_unexplained(reading: Reading, accounts: Iterable[Mapping[str, object]]) -> None:
    """What agents say of octets that left their hosts and are in no row."""
    pairs = [pair for account in accounts if (pair := _unexplained(account)) is not None]
    left = sum(interfaces for _, interfaces in pairs)
    if not left:
        return
    shares = [min(octets / interfaces, 1.0) for octets, interfaces in pairs if interfaces]
    reading.put("detect_unexplained_share", min(sum(octets for octets, _ in pairs) / left, 1.0))
    reading.put("detect_unexplained_share_most", max(shares))
    reading.put("detect_unexplained_agents", sum(share > UNEXPLAINED for share in shares))


def _unexplained(account: Mapping[str, object]) -> tuple[int, int] | None:
    """Octets in no row, and octets of the interfaces; None where the agent tells of neither, or of what is no number."""
    told = account.get("reconciled")
    found = [told.get(n) for n in ("unexplained_out", "interfaces_out")] if isinstance(told, Mapping) else []
    octets, interfaces = found if len(found) == 2 else (None, None)
    if not isinstance(octets, int) or not isinstance(interfaces, int) or octets < 0 or interfaces < 0:
        return None
    return octets, interfaces


def of_copier(role: type[CopyRuntime], run: CopyRuntime | None) -> Reading:
    """The figures of the archiver, or of the one that republishes."""
    reading = _begun("archiver" if role.role == "archive" else "republisher")
    if run is None:
        return reading
    counts = run.copying.counts
    if counts.lag >= 0:
        reading.put("copy_lag_messages", counts.lag)
    reading.put("copy_messages", counts.messages)
    reading.put("copy_message_octets", counts.octets)
    reading.put("copy_rows", counts.rows)
    _put_octets(reading, "copy_traffic_octets", counts.amounts)
    reading.put("copy_commits", counts.commits)
    reading.put("copy_duplicate_messages", counts.duplicates)
    _put_reasons(reading, "copy_refused_messages", counts.refused)
    reading.put("copy_stopped", float(bool(run.copying.trouble)))
    for name, figure in run.own_figures.items():
        reading.put(name, figure)
    return reading


def _begun(role: Role) -> Reading:
    reading = Reading(role)
    reading.put("build_info", 1, program_version(), role)
    return reading


def _put_octets(reading: Reading, name: str, amounts: Amounts, *labels: str) -> None:
    for direction, octets in zip(_DIRECTIONS, (amounts.octets_out, amounts.octets_in), strict=True):
        reading.put(name, octets, *labels, direction)


def _put_reasons(reading: Reading, name: str, found: Mapping[str, int]) -> None:
    known: Iterable[str] = get_args(Reason)
    for reason in dict.fromkeys((*known, *list(found))):
        reading.put(name, found.get(reason, 0), reason)
