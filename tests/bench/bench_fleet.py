"""What one detector takes on one core: messages of 1,000 rows beside a JSON object for each row, and a whole fleet.

    python -m tests.bench fleet                       # both; the fleet: 10,000 hosts, half a minute
    python -m tests.bench fleet rows                  # the first alone; `make bench-peers` before it for all peers
    python -m tests.bench fleet rows MESSAGES RECORDS # smaller, to see that it works: printed, not put into the page
    python -m tests.bench fleet drain HOSTS MINUTES   # the second alone; 10000 20 is the whole

A topic of a real broker is filled by the simulation, then read to its end by the program as `sekisho detect` runs it: from
the broker's octets to the committed transaction, signatures checked, state in SQLite, no archive. Every run starts with an
empty state, and its ledger is held to what the simulation put in.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.kafka import Connection
from agent.policy.load import load
from agent.simulation import kafka as topics
from agent.simulation.agents import Fleet
from agent.simulation.outputs import ToKafka
from agent.simulation.plan import Asked, Plan
from tests.bench import thousand
from tests.bench.measure import REPEATS, once
from tests.bench.page import SCALING, Bar, Report
from tests.bench.streaming import QUIX, SPARK
from tests.tools.brokers import Cluster, cluster

HOSTS, MINUTES, RATE = 10_000, 0.5, 50
HANDED = 1.55
"""Rows a collector hands over for one that is left when alike ones are joined: so that 50 a second are in the topic."""
LONG = 10
"""Minutes from which one run says enough: it is longer than what disturbs it."""
MESSAGES = 4_000
PEER_ROWS = 300_000
_JSON = "a JSON object for each row (orjson), dicts for four windows; checks no signature, keeps nothing"
STREAMING = {peer.name: peer for peer in (QUIX, SPARK)}
_WINDOW = "a JSON object for each row, one window of five minutes by agent over rows of stores"
PEERS = {
    "dicts": f"{_JSON}; kafka-python, as ours",
    "dicts-c": f"{_JSON}; confluent-kafka, a client in C",
    "quix": f"Quix Streams, {_WINDOW}",
    "spark": f"Spark Structured Streaming, local[1], {_WINDOW}; three fields of each object taken out, one micro-batch, default state store",
}
THOUSAND, PLAIN, FLEET = "simulated.thousand", "simulated.plain", "simulated.fleet"


@dataclass(frozen=True)
class Filled:
    """What was put into a topic."""

    messages: int
    rows: int
    stores_octets: int
    """Content octets of rows of stores."""
    octets: int
    """In the broker's log."""
    policy: str
    cpu_s: float


def main(arguments: Sequence[str]) -> bool:
    """Measure, print, write the page. Returns whether a bar was not met."""
    part, *sizes = arguments or ("",)
    below = False
    with tempfile.TemporaryDirectory(prefix="bench-") as name, cluster() as broker:
        folder = Path(name)
        kafka = Connection(servers=tuple(broker.bootstrap))
        topics.ready(kafka, "sekisho.dead.v1", 1, mixed=True)
        if part in ("", "rows"):
            messages, records = map(int, sizes or (MESSAGES, PEER_ROWS))
            below |= _per_row(kafka, broker, folder, messages, records)
        if part in ("", "drain"):
            hosts, minutes = (int(sizes[0]), float(sizes[1])) if sizes else (HOSTS, MINUTES)
            below |= _of_fleet(kafka, broker, folder, hosts, minutes)
    return below


def _per_row(kafka: Connection, broker: Cluster, folder: Path, messages: int, records: int) -> bool:
    filled = _fill_thousand(kafka, broker, messages)
    peers = _fill_plain(kafka, messages, records) if importlib.util.find_spec("confluent_kafka") else None
    away = [name for name, peer in STREAMING.items() if peer.python is None]
    wanted = [name for name in PEERS if name not in away] if peers else []
    took: dict[str, list[dict[str, Any]]] = {"ours": [], **{name: [] for name in PEERS}}
    for turn in range(REPEATS):
        took["ours"].append(_drain(folder / f"thousand-{turn}", broker, THOUSAND, filled))
        for name in wanted:
            took[name].append(_peer(name, folder / f"{name}-{turn}", broker, peers))
    rate = {side: _rate(runs) for side, runs in took.items() if runs}
    table = [
        ["what", "M rows/s of CPU", "beside it", ""],
        ["sekisho detect, 1,000 rows a message", f"{rate['ours']:.2f}", "", _said(took["ours"])],
    ]
    bars = [
        Bar("from the broker's octets to the committed transaction", 0.7, rate["ours"], "M rows/s of CPU"),
        Bar("goal: the same", 1.5, rate["ours"], "M rows/s of CPU"),
    ]
    for name in wanted:
        times = rate["ours"] / rate[name]
        table.append([PEERS[name], f"{rate[name]:.3f}", f"{times:.1f} times", _said(took[name])])
    if wanted:
        times = rate["ours"] / rate["dicts"]
        bars.append(Bar("beside a JSON object for each row, with the same client", 5.0, times))
    title = (
        f"{filled.messages:,} messages of 1,000 rows of {thousand.HOSTS} hosts, one in fifty with a store; "
        f"{filled.octets / filled.rows:.1f} octets a row in the topic; peers {records:,} records of the same rows; {REPEATS} runs in turns; ledger exact"
    )
    notes = [f"{', '.join(away)}: not at hand, `make bench-peers` fetches them"] if peers and away else []
    report = Report(
        "fleet-rows",
        title,
        table,
        bars,
        notes,
        partial=messages < MESSAGES or records < PEER_ROWS,
        page=SCALING,
    )
    report.publish()
    return not all(bar.is_met for bar in bars if not bar.what.startswith("goal"))


def _of_fleet(kafka: Connection, broker: Cluster, folder: Path, hosts: int, minutes: float) -> bool:
    # A shorter run has as much less of backlogs, so that they are to the rest what they are in 20 minutes.
    share = 0.01 * min(1.0, minutes / 20)
    asked = Asked(hosts, RATE * HANDED, int(minutes * 60), thousand.BEGIN_NS, 9, share, incidents=20)
    plan = Plan(asked)
    filled = _fill_fleet(kafka, broker, plan)
    runs = []
    for turn in range(1 if minutes >= LONG else 3):
        told = _drain(folder / f"fleet-{turn}", broker, FLEET, filled)
        wanted = {f"{i.store} {i.entity}": i.content_octets_out for i in plan.incidents}
        wrong = {
            key: told["sums"].get(key) for key, octets in wanted.items() if told["sums"].get(key) != octets
        }
        if wrong or not set(wanted) <= set(told["found"]):
            raise SystemExit(f"incidents are wrong in the ledger or not found: {wrong}, {told['found']}")
        runs.append(told)
    cpu_s = statistics.median(run["cpu_s"] for run in runs)
    headroom = minutes * 60 / cpu_s
    a_second = filled.rows / minutes / 60
    table = [
        ["what", "", ""],
        ["in the topic", f"{filled.rows:,} rows in {filled.messages:,} messages", f"{filled.octets / 1e9:.2f} GB"],
        ["that is", f"{a_second / hosts:.1f} rows a second and host, {filled.rows / filled.messages:.0f} a message",
         f"{filled.octets / filled.rows:.1f} octets a row"],
        ["drained", f"{cpu_s:.1f} s CPU, {statistics.median(r['wall_s'] for r in runs):.1f} s wall", _said(runs)],
        ["rows", f"{filled.rows / cpu_s / 1e6:.2f} M a second of CPU", f"{cpu_s / filled.messages * 1e3:.2f} ms a message"],
        ["sealed and sent by the simulation", f"{filled.cpu_s:.0f} s CPU", f"{filled.cpu_s / filled.messages * 1e3:.2f} ms a message, rows made included"],
    ]  # fmt: skip
    bars = [Bar("drained faster than real time by", 1.0, headroom)]
    scaled = "" if (hosts, minutes) == (HOSTS, 20) else f"; the whole is {HOSTS:,} hosts and 20 minutes"
    title = (
        f"{minutes:g} min of {hosts:,} hosts of {RATE} rows a second, jitter 30 s, {len(plan.backlogged):,} with a backlog of 10 minutes{scaled}; "
        f"one core, {len(runs)} run{'s' if len(runs) > 1 else ''}; ledger exact, {len(plan.incidents)} of {len(plan.incidents)} incidents found in each"
    )
    report = Report("fleet-drain", title, table, bars, page=SCALING, partial=hosts < HOSTS)
    report.publish()
    return not all(bar.is_met for bar in bars)


def _fill_thousand(kafka: Connection, broker: Cluster, messages: int) -> Filled:
    plan = thousand.plan(messages)
    fleet = Fleet(plan, _version(plan))
    out, octets = _into(kafka, THOUSAND), 0
    begun = time.process_time()
    for batch in thousand.batches(fleet, messages):
        octets += int(batch["content_octets_out"][batch["store"] >= 0].sum())
        out.put(thousand.sealed(fleet, batch))
    out.close()
    taken = time.process_time() - begun
    stored = _stored(broker, THOUSAND)
    return Filled(messages, messages * thousand.ROWS, octets, stored, plan.policy(), taken)


def _fill_plain(kafka: Connection, messages: int, records: int) -> Filled:
    """The same rows as JSON objects, each a record."""
    import orjson
    from confluent_kafka import Producer

    topics.ready(kafka, PLAIN, 12, mixed=True)
    producer = Producer(
        {"bootstrap.servers": kafka.servers[0], "compression.type": "zstd", "linger.ms": 50, "acks": "all"}
    )
    plan = thousand.plan(messages)
    rows = octets = 0
    # All hosts, and so one row in fifty of a store, within a step.
    for batch in thousand.batches(Fleet(plan), records // thousand.ROWS):
        for row in batch.rows():
            rows += 1
            octets += row["content_octets_out"] if row["store"] else 0
            value = orjson.dumps({name: v for name, v in row.items() if v is not None})
            producer.produce(PLAIN, value=value, key=batch.header.agent_id)
            if rows % 1_000 == 0:
                producer.poll(0)
        producer.flush()
    return Filled(rows, rows, octets, 0, "", 0.0)


def _fill_fleet(kafka: Connection, broker: Cluster, plan: Plan) -> Filled:
    fleet, out = Fleet(plan, _version(plan)), _into(kafka, FLEET)
    begun, messages, rows = time.process_time(), 0, 0
    for sent in fleet.messages(stops=False):
        if isinstance(sent, int):
            continue
        out.put(sent)
        messages, rows = messages + 1, rows + sent.rows
        if messages % 10_000 == 0:
            print(f"    {messages:,} messages, {rows:,} rows", file=sys.stderr, flush=True)
    out.close()
    taken = time.process_time() - begun
    return Filled(messages, rows, fleet.stores_octets, _stored(broker, FLEET), plan.policy(), taken)


def _into(kafka: Connection, topic: str) -> ToKafka:
    topics.ready(kafka, topic, 12, mixed=True)
    return ToKafka(kafka, topic)


def _version(plan: Plan) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.yaml"
        file.write_text(plan.policy())
        return load([file], today=datetime.now(UTC).date()).version


def _stored(broker: Cluster, topic: str) -> int:
    return sum(file.stat().st_size for file in broker.folder.glob(f"**/{topic}-*/*.log"))


def _drain(folder: Path, broker: Cluster, topic: str, filled: Filled) -> dict[str, Any]:
    """One run of the detector; its result held to the truth."""
    folder.mkdir()
    (folder / "policy.yaml").write_text(filled.policy)
    told = _once("sekisho", folder, broker, topic, filled.messages)
    expected = (filled.rows, filled.stores_octets, {}, 0, 0)
    found = tuple(told[name] for name in ("rows", "ledger", "dead", "missing", "derived"))
    if found != expected:
        raise SystemExit(f"wrong: rows, ledger, dead, missing, derived are {found} instead of {expected}")
    return told


def _peer(name: str, folder: Path, broker: Cluster, filled: Filled | None) -> dict[str, Any]:
    assert filled is not None
    folder.mkdir()
    told = _once(name, folder, broker, PLAIN, filled.messages)
    if (told["rows"], told["ledger"]) != (filled.rows, filled.stores_octets):
        raise SystemExit(f"the peer is wrong: {told} instead of {filled}")
    return told


def _once(side: str, folder: Path, broker: Cluster, topic: str, count: int) -> dict[str, Any]:
    where = [broker.bootstrap[0], topic, str(count)]
    line = [sys.executable, "-m", "tests.bench.drain", side, str(folder), *where]
    if side in STREAMING:
        line = [*STREAMING[side].command, *where]
    used = once(line, folder)
    told: dict[str, Any] = json.loads(used.out.rpartition("RESULT ")[2].splitlines()[0])
    told["anonymous_mib"] = used.anonymous_mib
    rate = told["rows"] / told["cpu_s"] / 1e6
    print(f"    {side} {topic}: {told['cpu_s']:.2f} s, {rate:.3f} M rows/s", file=sys.stderr, flush=True)
    return told


def _rate(runs: Sequence[dict[str, Any]]) -> float:
    return statistics.median(run["rows"] / run["cpu_s"] for run in runs) / 1e6


def _said(runs: Sequence[dict[str, Any]]) -> str:
    most = max(run["anonymous_mib"] for run in runs)
    start_s = statistics.median(run["start_s"] for run in runs)
    version = f"{runs[0]['version']}; " if "version" in runs[0] else ""
    warming = [run["warming_s"] for run in runs if "warming_s" in run]
    apart = f"start {start_s:.1f} s CPU"
    if warming:
        alone_s = statistics.median(run["alone_s"] for run in runs)
        apart += f", {statistics.median(warming):.1f} s of readings that warm it, {alone_s:.1f} s of a query over a dozen rows"
    return f"{version}{most:.0f} MiB at most; {apart}, not counted"
