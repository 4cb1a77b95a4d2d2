"""One side of the fleet bench, as a process of its own: read a topic to its end, say what that took.

    python -m tests.bench.drain sekisho FOLDER SERVER TOPIC MESSAGES [NAME=VALUE ...]
    python -m tests.bench.drain dicts   FOLDER SERVER TOPIC RECORDS      # dicts-c: with the client in C

Prints one line of JSON. CPU is user and system of the process, all threads, from the first question to the broker on;
what the start of the program takes is told apart.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agent import config
from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.deciding import LocalDecide
from agent.receiving.detecting import DetectRuntime

_KEY = ("remote_asn", "remote_owner", "remote_country", "initiator")
_WINDOWS = ((10 * SECOND_NS, 31), (MINUTE_NS, 61), (15 * MINUTE_NS, 97), (6 * HOUR_NS, 121))
"""Buckets of the program's four windows, and how many of each it keeps."""


def sekisho(folder: Path, server: str, topic: str, messages: int, flags: Sequence[str]) -> dict[str, Any]:
    """The detector as `sekisho detect` runs it, stopped once it has committed all that was asked for."""
    given = {
        "kafka.servers": server,
        "kafka.topics.flows": topic,
        "policy": str(folder / "policy.yaml"),
        "enrichers": "{asset: {}}",
        "sinks.jsonl.file": str(folder / "alerts.jsonl"),
        "sinks.jsonl.flows": "false",
        **dict(flag.split("=", 1) for flag in flags),
    }
    import kafka  # noqa: F401  part of the start

    loaded = config.load(None, flags=tuple(given.items()), given=(("state_dir", str(folder / "state")),))
    with DetectRuntime(loaded) as run:
        stream = run.stream
        between = stream.between

        def stop_at_the_end() -> None:
            between()
            if stream.counts.messages >= messages:
                run.stop.set()

        stream.between = stop_at_the_end
        start_s, wall_s = time.process_time(), time.monotonic()
        run.go()
        taken_s, wall_s = time.process_time() - start_s, time.monotonic() - wall_s
        sums = Counter({f"{s.key[0]} {s.key[1]}": s.content_octets_out for s in run.state.ledger.sums()})
        assert isinstance(run.decide, LocalDecide)
        for row in run.decide.detector.finish().ledger:  # what is held back for the next commit
            sums[f"{row.store} {row.entity}"] += row.content_octets_out
        return {
            "cpu_s": taken_s,
            "wall_s": wall_s,
            "start_s": start_s,
            "rows": stream.counts.rows,
            "messages": stream.counts.messages,
            "commits": stream.counts.commits,
            "dead": dict(stream.counts.dead),
            "duplicates": stream.counts.duplicates,
            "missing": stream.gaps.missing(),
            "derived": stream.counts.derived,
            "ledger": sums.total(),
            "sums": dict(sums),
            "found": sorted({f"{f.store} {f.entity}" for f in run.state.cases.findings_of()}),
        }


def dicts(values: Callable[[], Iterable[bytes]], records: int) -> dict[str, Any]:
    """The peer: a JSON object for each row, a dict for each window; what it would do for durability is left out."""
    import orjson

    held: list[dict[Any, int]] = [{} for _ in _WINDOWS]
    start_s, wall_s = time.process_time(), time.monotonic()
    rows = ledger = 0
    while rows < records:
        for value in values():
            row = orjson.loads(value)
            rows += 1
            store = row.get("store")
            if store is None or row["remote_scope"] != "external":
                continue
            octets, end_ns = row["content_octets_out"], row["end_ns"]
            key = (store, *map(row.get, _KEY))
            ledger += octets
            for sums, (grain_ns, _) in zip(held, _WINDOWS, strict=True):
                place = (key, end_ns // grain_ns)
                sums[place] = sums.get(place, 0) + octets
    taken_s, wall_s = time.process_time() - start_s, time.monotonic() - wall_s
    return {"cpu_s": taken_s, "wall_s": wall_s, "start_s": start_s, "rows": rows, "ledger": ledger}


def in_c(server: str, topic: str) -> Callable[[], Iterable[bytes]]:
    """Values of a topic by confluent-kafka."""
    from confluent_kafka import Consumer, TopicPartition

    settings = {"bootstrap.servers": server, "group.id": "bench", "enable.auto.commit": False}
    consumer = Consumer(settings)
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, n, 0) for n in partitions])
    return lambda: [record.value() for record in consumer.consume(10_000, 1.0)]


def in_python(server: str, topic: str) -> Callable[[], Iterable[bytes]]:
    """Values of a topic by kafka-python."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=server, group_id=None, metrics_enabled=False)
    parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
    consumer.assign(parts)
    consumer.seek_to_beginning(*parts)
    return lambda: [
        r.value for rows in consumer.poll(timeout_ms=1000, max_records=10_000).values() for r in rows
    ]


def main(arguments: Sequence[str]) -> None:
    """See the module's text."""
    side, folder, server, topic, count, *flags = arguments
    if side == "sekisho":
        told = sekisho(Path(folder), server, topic, int(count), flags)
    else:
        told = dicts((in_c if side == "dicts-c" else in_python)(server, topic), int(count))
    told["rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
