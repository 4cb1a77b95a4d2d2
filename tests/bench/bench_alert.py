"""From the packet that passes a store's threshold to the alert in Kafka, the whole road real (root)

    python -m tests.bench alert [CROSSINGS [SECONDS]]     # 240 over 150 s

`sekisho agent` with eBPF, a broker, `sekisho detect` with its state in PostgreSQL, its alerts in a topic. Each transfer goes
to a receiver of its own, sends exactly the threshold, waits for seconds, and then passes it with one small packet; the clock
starts just before that call. Transfers begin at random, so they meet every phase of every interval; other traffic goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from agent.core.address import parse
from agent.core.clock import SECOND_NS, DataClock
from agent.core.kafka import Connection, quiet
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Message
from agent.seal import MAX_AGE_NS, STORE_LANE
from collectors.bpf.kept import NEAR_STORE_NS
from tests.bench import crossings, hosted
from tests.bench.charged import Charged
from tests.bench.page import SCALING, Bar, Report
from tests.tools import netns, postgres, topics
from tests.tools.brokers import cluster
from tests.tools.fleet import Program
from tests.tools.netns import HOST6, Pair
from tests.tools.places import ROOT
from tests.tools.states import Place

CROSSINGS: Final = 240
SECONDS: Final = 150.0
OVER: Final = 1_000_000
LAST: Final = 64
CHURN: Final = 300
READ_NS: Final = NEAR_STORE_NS
"""How often the agent reads the kernel's counts on such a host, on full seconds."""
AFTER_SEAL_S: Final = 1.0
_MS: Final = 1_000_000
_ASN: Final = 4_200_000_000
"""Above it, numbers for private use (RFC 6996)."""
_RULES: Final = f"""rules:
  - {{id: bulk-external, enabled: false}}
  - {{id: bulk-restricted-owner, enabled: false}}
  - {{id: crossing, version: 1, title: Crossing, over: {OVER} B, window: 5m, severity: high}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """Times of one crossing, ns."""

    packet: int
    in_flows: int
    """Its row's message was appended to the topic of flows."""
    decided: int
    """The detector's transaction was made."""
    alerted: int
    """Appended to the topic of alerts."""

    @property
    def read(self) -> int:
        """When the kernel's counts were read next, by the interval."""
        return -(-self.packet // READ_NS) * READ_NS


def main(arguments: Sequence[str] = ()) -> bool:
    """Measure, print, write the page. Returns whether a bar was not met."""
    count = int(arguments[0]) if arguments else CROSSINGS
    seconds = float(arguments[1]) if len(arguments) > 1 else SECONDS
    if hosted.left_out():
        return False
    with tempfile.TemporaryDirectory(prefix="sekisho-alert-") as name:
        ways, missing = measure(Path(name), count, seconds)
    report = told(ways, missing, seconds, partial=count < CROSSINGS)
    report.publish()
    return not all(bar.is_met for bar in report.bars)


def measure(folder: Path, count: int, seconds: float) -> tuple[list[Way], int]:
    """Run it; the ways, and how many crossings nobody was told of."""
    policy = folder / "policy.yaml"
    policy.write_text(hosted.POLICY + _RULES)
    overrides = folder / "overrides.yaml"
    entries = [
        {"network": f"{hosted.V6}:{n:x}::/64", "asn": _ASN + n, "as_org": f"Receiver {n}", "country": "DE"}
        for n in range(crossings.FIRST, crossings.FIRST + count)
    ]
    overrides.write_text(json.dumps({"version": 1, "overrides": entries}))
    with contextlib.ExitStack() as held:
        two = held.enter_context(netns.pair())
        hosted.routes(two)
        broker = held.enter_context(cluster())
        database = held.enter_context(postgres.serving(durable=True)).fresh()
        kafka = topics.connection(broker.bootstrap, f"alert{os.getpid()}")
        names = kafka.topics.model_dump().values()
        topics.make(broker.bootstrap, *names, **{"message.timestamp.type": "LogAppendTime"})
        near = held.enter_context(contextlib.closing(Charged("near")))
        far = held.enter_context(contextlib.closing(Charged("far")))
        told_of = {"overrides": [str(overrides)]}
        held.enter_context(_detector(folder / "detector", kafka, database, policy, told_of))
        held.enter_context(hosted.agent(folder / "agent", kafka, near, policy=policy, **told_of))
        with hosted.churn(two, folder, near, far, CHURN, seconds):
            crossed = _crossed(two, near, far, count, seconds)
            alerts = _alerts(kafka, count)
        in_flows = _in_flows(kafka, crossed)
        decided = _decided(database, {case for case, _ in alerts.values()})
    ways = [
        Way(crossed[n], in_flows[n], decided[case], alerted)
        for n, (case, alerted) in sorted(alerts.items())
        if n in in_flows
    ]
    return ways, count - len(ways)


@contextlib.contextmanager
def _detector(
    folder: Path, kafka: Connection, database: str, policy: Path, more: Mapping[str, Any]
) -> Iterator[Program]:
    folder.mkdir()
    settings = {
        "state_dir": str(folder / "state"),
        "policy": [str(policy)],
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
        "detect": {"database": database},
        "sinks": {"kafka": {}},
        **more,
    }
    (folder / "sekisho.yaml").write_text(json.dumps(settings))
    with Program([f"--config={folder / 'sekisho.yaml'}"], folder / "log") as program:
        netns.wait_for(
            lambda: program.process.poll() is not None or "run_started" in program.log.read_text(),
            "the detector",
            60,
        )
        yield program
        if program.stop():
            raise RuntimeError(f"the detector failed: {program.log.read_text()[-3000:]}")


def _crossed(two: Pair, near: Charged, far: Charged, count: int, seconds: float) -> dict[int, int]:
    """Run the transfers; when each passed the threshold."""
    module = (sys.executable, "-m", "tests.bench.crossings")

    def line(group: Charged, space: str, *words: str) -> list[str]:
        return group.line("nsenter", f"--net=/run/netns/{space}", *module, *words)

    sink = subprocess.Popen(line(far, two.peer.name, "sink"), stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert sink.stdout is not None
        sink.stdout.readline()
        words = ("send", HOST6, hosted.V6, str(count), str(OVER), str(LAST), str(seconds))
        done = subprocess.run(line(near, two.host.name, *words), stdout=subprocess.PIPE, cwd=ROOT, check=True)
    finally:
        sink.terminate()
        sink.communicate()
    return {int(n): when for n, when in json.loads(done.stdout).items()}


def _consumer(kafka: Connection, topic: str) -> tuple[KafkaConsumer, TopicPartition]:
    quiet()
    consumer = KafkaConsumer(
        bootstrap_servers=list(kafka.servers), enable_auto_commit=False, max_partition_fetch_bytes=2**25
    )
    part = TopicPartition(topic, 0)
    consumer.assign([part])
    consumer.seek_to_beginning(part)
    return consumer, part


def _alerts(kafka: Connection, count: int, patience_s: float = 30.0) -> dict[int, tuple[str, int]]:
    """By number of the transfer: its case, and when the alert of its opening was appended."""
    found: dict[int, tuple[str, int]] = {}
    consumer, _ = _consumer(kafka, kafka.topics.alerts)
    try:
        end_s = time.monotonic() + patience_s
        while len(found) < count and time.monotonic() < end_s:
            for record in (r for rows in consumer.poll(timeout_ms=500).values() for r in rows):
                event = json.loads(record.value)
                entity = event["unmapped"]["sekisho"].get("destination", {}).get("entity", "")
                if (number := re.fullmatch(r"as[a-z]*:(\d+)", entity)) and int(number[1]) > _ASN:
                    found.setdefault(int(number[1]) - _ASN, (record.key.decode(), record.timestamp * _MS))
    finally:
        consumer.close()
    return found


def _in_flows(kafka: Connection, crossed: Mapping[int, int]) -> dict[int, int]:
    """By number: when the message with which the sum of its rows passed the threshold was appended to the topic."""
    sums = dict.fromkeys(crossed, 0)
    found: dict[int, int] = {}
    ends = parse([f"{hosted.V6}:{n:x}::1" for n in sums])
    number_of = {tuple(end): n for n, end in zip(sums, ends.tolist(), strict=True)}
    consumer, part = _consumer(kafka, kafka.topics.flows)
    try:
        end = consumer.end_offsets([part])[part]
        while consumer.position(part) < end:
            for record in (r for rows in consumer.poll(timeout_ms=500).values() for r in rows):
                headers = dict(record.headers)
                message = Message(headers[HEADER_KEY], headers[SIGNATURE_KEY], record.value)
                batch = message.batch(message.read_header())
                ours = np.flatnonzero(batch["remote_port"] == crossings.PORT)
                remote, content = (
                    batch["remote_address"][ours].tolist(),
                    batch["content_octets_out"][ours].tolist(),
                )
                for to, octets in zip(remote, content, strict=True):
                    n = number_of[tuple(to)]
                    sums[n] += octets
                    if sums[n] > OVER:
                        found.setdefault(n, record.timestamp * _MS)
    finally:
        consumer.close()
    return found


def _decided(database: str, cases: set[str]) -> dict[str, int]:
    """By case: when the first notice of it was made, as the transaction has it."""
    with Place(database).beside(DataClock(time.time_ns()), read_only=True) as state:
        return {case: min(d.created_ns for d in state.deliveries.of_case(case)) for case in cases}


def told(ways: Sequence[Way], missing: int, seconds: float, *, partial: bool) -> Report:
    """What came of it, as a table with its bar."""
    stages: tuple[tuple[str, Callable[[Way], int]], ...] = (
        ("packet to the next reading of the kernel's counts (on full seconds)", lambda w: w.read - w.packet),
        (
            "read, enriched, sealed, spooled, sent, appended to the topic of flows",
            lambda w: w.in_flows - w.read,
        ),
        ("fetched, checked, decided, into the transaction", lambda w: w.decided - w.in_flows),
        ("committed, rendered, sent, appended to the topic of alerts", lambda w: w.alerted - w.decided),
        ("**packet to alert**", lambda w: w.alerted - w.packet),
    )
    rows = [["from to", "p50", "p95", "p99", "most"]]
    for what, spent in stages:
        took: NDArray[np.float64] = np.array([spent(way) for way in ways]) / SECOND_NS
        at = [*np.quantile(took, (0.5, 0.95, 0.99)), took.max()]
        rows.append([what, *(f"{s:.3f} s" for s in at)])
    whole = np.array([way.alerted - way.packet for way in ways]) / SECOND_NS
    seal_s = MAX_AGE_NS[STORE_LANE] / SECOND_NS
    bars = (
        Bar(
            "packet to alert, p99", seal_s + AFTER_SEAL_S, float(np.quantile(whole, 0.99)), "s", at_most=True
        ),
        Bar("crossings that nobody was told of", 0, missing, "of them", at_most=True),
    )
    notes = (
        f"{len(ways)} crossings over {seconds:g} s, each of a receiver of its own, beside {CHURN} short connections a second; the "
        "clock starts just before the call that sends the packet; topics say when they appended (ms)",
        f"promised: the seal time of the store's lane ({seal_s:g} s) and {AFTER_SEAL_S:g} s; detector's state in PostgreSQL, with fsync",
    )
    return Report("alert", "From the packet that passes a threshold to the alert in Kafka", rows, bars, notes,
                  partial=partial, page=SCALING)  # fmt: skip
