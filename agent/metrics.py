"""Figures of a running role for a monitoring system: one table says what each metric is called and means.

The pages on which they are served (:mod:`agent.metrics_server`) and ``docs/metrics.md`` are both from it. No label holds a
host, an address or a name from outside, and a label has at most so many values.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Role = Literal["agent", "detector", "archiver", "republisher"]

MOST_VALUES: Final = 64
"""Of one label; what is more is summed under ``other``."""
DELAYS_S: Final = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0, 86400.0)
"""Upper bounds of the histogram of delays."""
_COPIERS: Final[tuple[Role, ...]] = ("archiver", "republisher")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without the suffix ``_total``, and what it means."""

    name: str
    kind: Kind
    meaning: str
    roles: tuple[Role, ...]
    labels: tuple[str, ...] = ()


def _m(name: str, kind: Kind, roles: tuple[Role, ...] | Role, meaning: str, *labels: str) -> Metric:
    return Metric(f"sekisho_{name}", kind, meaning, (roles,) if isinstance(roles, str) else roles, labels)


METRICS: Final[tuple[Metric, ...]] = (
    _m("build_info", "gauge", ("agent", "detector", *_COPIERS), "Always 1; the version of the program.", "version", "role"),
    # the agent
    _m("capture_collector_running", "gauge", "agent", "1 while the collector, which is the tier, has not failed.", "collector"),
    _m("capture_flows", "counter", "agent", "Flows captured."),
    _m("capture_octets", "counter", "agent", "Octets captured, IP layer.", "direction"),
    _m("capture_excluded_flows", "counter", "agent", "Flows left out because a setting says so.", "reason"),
    _m("capture_excluded_octets", "counter", "agent", "Their octets.", "reason", "direction"),
    _m("capture_dropped_flows", "counter", "agent", "Flows let go before they were sealed.", "reason"),
    _m("capture_dropped_octets", "counter", "agent", "Their octets.", "reason", "direction"),
    _m("capture_lost_frames", "counter", "agent", "Frames lost before their flow was known.", "reason"),
    _m("capture_unobserved_seconds", "counter", "agent", "Time in which nothing was counted.", "reason"),
    _m("capture_map_overflow_octets", "counter", "agent", "Octets counted without their flow, because the kernel's map was full.", "direction"),
    _m("capture_pending_octets", "gauge", "agent", "Octets captured and not yet sealed.", "place", "direction"),
    _m("seal_flows", "counter", "agent", "Flows sealed into batches."),
    _m("seal_octets", "counter", "agent", "Their octets.", "direction"),
    _m("spool_delivered_flows", "counter", "agent", "Flows that Kafka has acknowledged."),
    _m("spool_delivered_octets", "counter", "agent", "Octets of traffic that Kafka has acknowledged.", "direction"),
    _m("spool_waiting_flows", "gauge", "agent", "Flows of this run in the spool, not yet acknowledged."),
    _m("spool_waiting_octets", "gauge", "agent", "Octets of traffic in the spool, not yet acknowledged.", "direction"),
    _m("spool_dropped_flows", "counter", "agent", "Sealed flows that the spool let go.", "reason"),
    _m("spool_dropped_octets", "counter", "agent", "Octets of traffic that the spool let go.", "reason", "direction"),
    _m("spool_disk_octets", "gauge", "agent", "What the spool takes on the disk."),
    _m("spool_records", "gauge", "agent", "Batches in the spool, of earlier runs too."),
    _m("send_connected", "gauge", "agent", "1 while Kafka is reached."),
    _m("send_last_acknowledged_timestamp_seconds", "gauge", "agent", "When Kafka last acknowledged a batch; missing before the first."),
    _m("account_residue_octets", "gauge", "agent", "What the account cannot explain; must be 0.", "line", "direction"),
    _m("capture_unexplained_share", "gauge", "agent", "Of the octets that left by the host's interfaces, the share, 0 to 1, that is in no row; missing where no collector compares them."),
    _m("capture_unexplained_octets", "gauge", "agent", "These octets, of this run.", "direction"),
    # the detector
    _m("detect_leader", "gauge", "detector", "1 while this one leads, 0 while it stands by."),
    _m("detect_lag_messages", "gauge", "detector", "Messages that wait at the brokers; missing while that is not known."),
    _m("detect_messages", "counter", "detector", "Messages read."),
    _m("detect_message_octets", "counter", "detector", "Octets of their values."),
    _m("detect_rows", "counter", "detector", "Rows decided and committed."),
    _m("detect_commits", "counter", "detector", "Commits of what was read."),
    _m("detect_duplicate_messages", "counter", "detector", "Batches that came again."),
    _m("detect_dead_messages", "counter", "detector", "Messages sent to the topic of dead letters.", "reason"),
    _m("detect_dead_unsent_messages", "counter", "detector", "Of these, those that their topic did not take."),
    _m("detect_missing_batches", "gauge", "detector", "Batches that agents sent and nobody has seen."),
    _m("detect_unexplained_share", "gauge", "detector", "Of what left by the interfaces of all hosts, the share, 0 to 1, that is in no row, by the agents' word; missing where no agent compares."),
    _m("detect_unexplained_share_most", "gauge", "detector", "The largest of any one agent."),
    _m("detect_unexplained_agents", "gauge", "detector", "Agents of which it is over 0.01."),
    _m("detect_derived_rows", "counter", "detector", "Rows whose facts were derived anew."),
    _m("detect_differing_rows", "counter", "detector", "Of these, those of which the agent had said something else.", "column"),
    _m("detect_past_limit_rows", "counter", "detector", "Rows that found no place of their own in a table of the detector; their amounts are counted all the same.", "place"),
    _m("detect_past_limit_flows", "counter", "detector", "Flows whose network found none."),
    _m("detect_past_limit_octets", "counter", "detector", "Their octets.", "direction"),
    _m("detect_alert_delay_seconds", "histogram", "detector", "From the end of the row that passed a threshold to the commit of the notice."),
    # those who copy
    _m("copy_lag_messages", "gauge", _COPIERS, "Messages that wait at the brokers; missing while that is not known."),
    _m("copy_messages", "counter", _COPIERS, "Messages read."),
    _m("copy_message_octets", "counter", _COPIERS, "Octets of their values."),
    _m("copy_rows", "counter", _COPIERS, "Rows taken and committed."),
    _m("copy_traffic_octets", "counter", _COPIERS, "Octets of traffic in these rows.", "direction"),
    _m("copy_commits", "counter", _COPIERS, "Commits."),
    _m("copy_duplicate_messages", "counter", _COPIERS, "Batches that came again."),
    _m("copy_refused_messages", "counter", _COPIERS, "Messages that could not be taken.", "reason"),
    _m("copy_stopped", "gauge", _COPIERS, "1 while nothing can be taken, such as for want of room."),
    _m("archive_files", "counter", "archiver", "Parquet files finished."),
    _m("archive_missing_octets", "counter", "archiver", "Octets of journals that were committed and found missing or not readable."),
    _m("republish_records", "counter", "republisher", "Records that Kafka has acknowledged."),
)  # fmt: skip
"""Every metric."""

BY_NAME: Final = {metric.name: metric for metric in METRICS}
Labels = tuple[str, ...]


@dataclass
class Histogram:
    """Counts of seconds by upper bound. Thread-safe."""

    bounds: tuple[float, ...] = DELAYS_S
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        place = next((i for i, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))
        with self._lock:
            self._counts[place] += 1
            self._sum += seconds

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        out, seen = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            seen += count
            out.append((bound, float(seen)))
        return out, total


class Reading:
    """All figures of one moment. Metrics of the role that nobody put stay without a sample."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.values: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, Histogram] = {}

    def put(self, name: str, value: float, *labels: str) -> None:
        """A figure. ``name`` is that of the table without ``sekisho_``; ``labels`` in the table's order."""
        metric = BY_NAME[f"sekisho_{name}"]
        assert self.role in metric.roles and len(labels) == len(metric.labels), name
        found = self.values.setdefault(metric.name, {})
        if labels not in found and len(found) >= MOST_VALUES:
            labels = ("other", *labels[1:])
        found[labels] = found.get(labels, 0.0) + value

    def put_histogram(self, name: str, histogram: Histogram) -> None:
        """A histogram of the table."""
        self.histograms[f"sekisho_{name}"] = histogram
