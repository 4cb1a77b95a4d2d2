"""What sending costs an agent: a message sealed, spooled and acknowledged; its octets; its coding beside JSON.

    python -m tests.bench kafka [MESSAGES]

Against a real broker of one's own, which is not counted. CPU is user and system of this process, all threads. Clients
send the same messages, with acks of all replicas, idempotent, zstd; each in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from agent.core import wire
from agent.core.clock import SECOND_NS, DataClock, when
from agent.core.flow import FlowBatch, Text
from agent.core.message import Message, seal
from agent.policy import load as policies
from agent.policy.ownership import Ownership
from agent.seal import STORE_LANE, join_rows
from agent.sending.identity import identity
from agent.sending.tripwire import LocalDetector, Tripwire
from tests.bench.measure import REPEATS
from tests.bench.page import SCALING, Bar, Report
from tests.tools import topics
from tests.tools.brokers import cluster
from tests.tools.fleet import POLICY
from tests.tools.places import ROOT
from tests.tools.rows import batch_of
from tests.tools.sender import sender
from tests.tools.topics import until

MESSAGES = 400
ROWS = 1_000
STEADY, STEADY_S = 5_000, 15
_OWNERS = 300
_WIRED = "the same, rows of a store, with the tripwire"
_AMOUNTS = {
    "ordinary": "0.9 MB a message",
    "bulk": "870 MB a message, so that many receivers pass thresholds",
}
_T0 = 1_800_000_000 * 10**9


def enriched(count: int, seed: int = 3) -> list[FlowBatch]:
    """Batches as an enriched host of some services seals them: Zipf destinations, amounts over five magnitudes."""
    random = np.random.default_rng(seed)
    out = []
    for n in range(count):
        remote = np.minimum(random.zipf(1.3, ROWS), 5_000)
        process = random.integers(0, 12, ROWS)
        octets = (10 ** random.uniform(2, 7, ROWS)).astype(int)
        starts = _T0 + n * 10**10 + np.sort(random.integers(0, 10**10, ROWS))
        lasts = random.integers(10**6, 6 * 10**10, ROWS)
        out.append(
            batch_of(
                [
                    _row(int(r), int(p), int(o), int(s), int(d))
                    for r, p, o, s, d in zip(remote, process, octets, starts, lasts, strict=True)
                ]
            )
        )
    return out


def _row(remote: int, process: int, octets: int, start_ns: int, lasts_ns: int) -> dict[str, Any]:
    owner = remote % _OWNERS
    return {
        "local_address": f"10.0.{process % 4}.{process + 1}",
        "remote_address": f"198.{18 + remote % 2}.{remote // 250 % 250}.{remote % 250}",
        "local_port": None,
        "remote_port": (443, 443, 443, 80, 22, 5432)[remote % 6],
        "initiator": "local",
        "octets_out": octets,
        "packets_out": octets // 900 + 1,
        "octets_in": octets // 7,
        "packets_in": octets // 1800 + 1,
        "content_octets_out": octets - 52 * (octets // 900 + 1),
        "start_ns": start_ns,
        "end_ns": start_ns + lasts_ns,
        "process": f"service-{process}",
        "unit": f"service-{process}.service",
        "remote_scope": "external",
        "remote_country": ("US", "JP", "DE", "FR", "BR")[owner % 5],
        "remote_asn": 64496 + owner,
        "remote_as_org": f"Network {owner} Ltd",
        "remote_owner": f"Owner {owner % 90}",
        "remote_owner_country": ("US", "JP", "DE")[owner % 3],
        "location_confidence": ("high", "medium")[owner % 2],
        "vantage": "ebpf",
    }


def main(arguments: Sequence[str]) -> bool:
    """Measure, print, write the page. Returns whether a bar was not met."""
    count = int(arguments[0]) if arguments else MESSAGES
    batches = enriched(20)
    rows, bars = _coding(batches)
    with tempfile.TemporaryDirectory() as folder, cluster() as broker:
        name = "bench"
        kafka = topics.connection(broker.bootstrap, name)
        topics.make(broker.bootstrap, kafka.topics.flows, kafka.topics.agents)
        costs = [_sent(kafka, batches, count, Path(folder) / str(n)) for n in range(REPEATS)]
        stored = sum(f.stat().st_size for f in broker.folder.glob(f"**/{name}.flows-0/*.log"))
        cost_ms = statistics.median(costs)
        wire_octets = stored / (REPEATS * count * ROWS)
        rows.append(["sealed, spooled, acknowledged", f"{cost_ms:.2f} ms CPU a message", "", ""])
        rows.append(["in the topic, zstd", "", f"{wire_octets:.1f} octets a row", ""])
        bars.append(Bar("message sealed, spooled, acknowledged", 3.0, cost_ms, "ms CPU", at_most=True))
        bars.append(Bar("octets of an enriched row in the topic", 60.0, wire_octets, "octets", at_most=True))
        for what, made in (
            ("ordinary", stores_rows(batches, count)),
            ("bulk", stores_rows(batches, count, 1)),
        ):
            wired = [
                _sent(kafka, made, count, Path(folder) / f"{n}{len(rows)}", wired=True)
                for n in range(REPEATS)
            ]
            rows.append(
                [f"{_WIRED}; {_AMOUNTS[what]}", f"{statistics.median(wired):.2f} ms CPU a message", "", ""]
            )
            if what == "ordinary":
                bars.append(Bar(_WIRED, 3.0, statistics.median(wired), "ms CPU", at_most=True))
        share = statistics.median(_steady(kafka, batches, Path(folder) / f"{90 + n}") for n in range(3))
        rows.append(
            [f"{STEADY:,} rows a second, joined, sealed, sent", f"{share * 100:.2f} % of a core", "", ""]
        )
        bars.append(Bar(f"{STEADY:,} rows a second", 3.0, share * 100, "% of a core", at_most=True))
        rows += _clients(kafka, batches, count, Path(folder))
    report = Report(
        "kafka",
        "Sending to Kafka (1,000 enriched rows a message)",
        [["what", "CPU", "size", ""], *rows],
        bars,
        partial=count < MESSAGES,
        page=SCALING,
    )
    report.publish()
    return not all(bar.is_met for bar in bars)


def _cpu_ms(work: Callable[[], object], times: int = 20) -> float:
    taken = []
    for _ in range(times):
        begun = time.process_time()
        work()
        taken.append((time.process_time() - begun) * 1000)
    return statistics.median(taken)


def _coding(batches: list[FlowBatch]) -> tuple[list[list[str]], list[Bar]]:
    """Encoding and decoding beside a JSON object for each row, both from columns and back to columns."""
    batch = batches[0]
    value = wire.encode(batch, header=False)
    plain = [{k: v for k, v in row.items() if v is not None} for row in batch.rows()]
    names = list(plain[0])

    def unpacked() -> list[Any]:
        """Every column that the message has, as JSON's side gives them."""
        decoded = wire.decode(value)
        return [decoded[name] for name in names]

    ours = (_cpu_ms(lambda: wire.encode(batch, header=False)), _cpu_ms(unpacked))
    packed = zstandard.ZstdCompressor().compress(value)
    rows = [
        ["Arrow, encode", f"{ours[0]:.2f} ms", f"{len(value) / ROWS:.0f} octets a row", ""],
        [
            "Arrow, decode, every column unpacked",
            f"{ours[1]:.2f} ms",
            f"{len(packed) / ROWS:.0f} with zstd",
            "",
        ],
    ]
    if importlib.util.find_spec("orjson") is None:
        return [*rows, ["orjson", "not installed", "", ""]], []
    import orjson

    columns = {name: [row.get(name) for row in plain] for name in names}

    def encode() -> list[bytes]:
        return [
            orjson.dumps(dict(zip(names, values, strict=True)), default=str)
            for values in zip(*columns.values(), strict=True)
        ]

    lines = encode()

    def decode() -> dict[str, pa.Array]:
        found = [orjson.loads(line) for line in lines]
        return {name: pa.array([row.get(name) for row in found]) for name in names}

    theirs = (_cpu_ms(encode), _cpu_ms(decode))
    size = sum(map(len, lines)) / ROWS
    rows += [
        ["orjson an object for each row, encode", f"{theirs[0]:.2f} ms", f"{size:.0f} octets a row", ""],
        ["orjson an object for each row, decode, into columns", f"{theirs[1]:.2f} ms", "", ""],
    ]
    return rows, [
        Bar("encode beside orjson for each row", 3.0, theirs[0] / ours[0]),
        Bar("decode beside orjson for each row", 15.0, theirs[1] / ours[1]),
    ]


def stores_rows(batches: list[FlowBatch], count: int, part: int = 1_000) -> list[FlowBatch]:
    """So many batches of rows of a store, each of the second after the last one's, all of the past minutes; of their
    amounts a ``part``."""
    begin_ns = time.time_ns() - count * SECOND_NS
    out = []
    for n in range(count):
        batch = batches[n % len(batches)]
        ends = begin_ns + n * SECOND_NS + np.arange(len(batch)) * (SECOND_NS // len(batch))
        full = {"store": "patients", "tenant": "example", "basis": "same_host"}
        texts = {name: Text.full(len(batch), text) for name, text in full.items()}
        amounts = {name: batch[name] // part for name in ("octets_out", "content_octets_out")}
        out.append(batch.with_columns(**amounts, start_ns=ends - SECOND_NS // 2, end_ns=ends, **texts))
    return out


def _tripwire(folder: Path) -> tuple[Tripwire, DataClock]:
    """That of a store's host with the packs as shipped, and its clock."""
    folder.mkdir(parents=True)
    (folder / "policy.yaml").write_text(POLICY)
    clock = DataClock(time.time_ns())
    policy = policies.load((folder / "policy.yaml",), today=when(time.time_ns()).date())
    detector = LocalDetector(policy, Ownership.load(), host="db-1")
    return Tripwire(detector, clock, 300 * SECOND_NS, "db-1", folder), clock


def _sent(kafka: Any, batches: list[FlowBatch], count: int, folder: Path, *, wired: bool = False) -> float:
    """Milliseconds of CPU for each message from the sealed batch to its acknowledgement, all threads.

    ``wired``: the tripwire looks at them as at one message a second, so it judges ten together.
    """
    wire, clock = _tripwire(folder) if wired else (None, None)
    with sender(folder, kafka, run=int(folder.name) + 1, tripwire=wire) as agent:
        agent.put(batches[0])
        until(lambda: not agent.waiting, "the connection stands")
        begun = time.process_time()
        for n in range(count):
            agent.put(batches[n % len(batches)], lane=STORE_LANE if wired else 0)
            if clock is not None:
                clock.set(clock.now_ns() + SECOND_NS)
                agent.send.tick(time.time_ns())
        while agent.waiting:
            time.sleep(0.02)
        return (time.process_time() - begun) * 1000 / count


def _steady(kafka: Any, batches: list[FlowBatch], folder: Path) -> float:
    """Share of a core at a steady rate: rows of no store are joined as the sealer does it, then sealed and sent."""
    with sender(folder, kafka, run=int(folder.name) + 1) as agent:
        agent.put(batches[0])
        until(lambda: not agent.waiting, "the connection stands")
        begun, cpu_s = time.monotonic(), time.process_time()
        for second in range(STEADY_S):
            for n in range(STEADY // ROWS):
                agent.put(join_rows(batches[(second * 5 + n) % len(batches)]))
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        return (time.process_time() - cpu_s) / (time.monotonic() - begun)


CLIENT = """
import sys, time
from pathlib import Path
name, servers, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
values = [p.read_bytes() for p in sorted(Path(sys.argv[5]).iterdir())]
if name == "kafka-python":
    from kafka import KafkaProducer
    client = KafkaProducer(bootstrap_servers=servers, acks="all", compression_type="zstd", batch_size=768*1024, metrics_enabled=False, max_request_size=2**24)
    send = lambda value: client.send(topic, value=value, key=b"a")
else:
    from confluent_kafka import Producer
    client = Producer({"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 0})
    def send(value):
        client.produce(topic, value=value, key=b"a")
        client.poll(0)
send(values[0]); client.flush()
begun = time.process_time()
for n in range(count):
    send(values[n % len(values)])
client.flush()
print((time.process_time() - begun) * 1000 / count)
"""


def _clients(kafka: Any, batches: list[FlowBatch], count: int, folder: Path) -> list[list[str]]:
    """CPU of the bare clients for the same messages, taking turns."""
    key = identity(folder / "key")
    values = folder / "values"
    values.mkdir()
    for n, batch in enumerate(batches):
        message: Message = seal(batch, key.sign, low_water=0)
        (values / f"{n:03d}").write_bytes(message.value)
    names = ["kafka-python"]
    if importlib.util.find_spec("confluent_kafka") is not None:
        names.append("confluent-kafka")
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPEATS):
        for name in names:
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    CLIENT,
                    name,
                    kafka.servers[0],
                    kafka.topics.flows,
                    str(count),
                    str(values),
                ],
                capture_output=True,
                text=True,
                cwd=ROOT,
                check=True,
            )
            took[name].append(float(json.loads(done.stdout)))
    return [
        [f"{name} alone", f"{statistics.median(took[name]):.2f} ms CPU a message", "", ""] for name in names
    ]
