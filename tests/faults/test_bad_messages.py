"""What no agent would send, to a real detector: each is counted and kept aside, none ends it or changes a figure."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from kafka import KafkaConsumer, KafkaProducer

from agent.core.kafka import Connection
from agent.core.message import CONTEXT, HEADER_KEY, LARGEST_VALUE, SIGNATURE_KEY, Message
from tests.faults.scale import FULL, chance
from tests.fuzz.fuzz_message import resigned
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.fleet import FakeAgent, theft
from tests.tools.plan import Plan
from tests.tools.recorded import AGENT, KEY, OCTETS, ROWS, recorded
from tests.tools.road import Road

FLIPPED = 2000 if FULL else 300


class Foe:
    """Sends any octets to a topic."""

    def __init__(self, broker: Cluster, topic: str) -> None:
        self._topic, self.sent = topic, 0
        self._producer = KafkaProducer(
            bootstrap_servers=broker.bootstrap, compression_type="zstd", max_request_size=2**25
        )

    def send(self, value: bytes | None, headers: list[tuple[str, bytes]], key: bytes | None = None) -> None:
        """One record."""
        self.sent += 1
        self._producer.send(self._topic, value=value, headers=headers, key=key)

    def message(self, message: Message, key: str = AGENT) -> None:
        """A message in its form."""
        self.send(
            message.value, [(HEADER_KEY, message.header), (SIGNATURE_KEY, message.signature)], key.encode()
        )

    def close(self) -> None:
        """All of it is with the broker."""
        self._producer.flush(60)
        self._producer.close()


@pytest.fixture
def foe(broker: Cluster, kafka: Connection) -> Iterator[Foe]:
    made = Foe(broker, kafka.topics.flows)
    yield made
    made.close()


def _damaged(good: Message, count: int, when: random.Random) -> Iterator[Message]:
    """The value with octets changed, left out and put in twice; signed by the agent itself in one of two."""
    for n in range(count):
        value = bytearray(good.value)
        for _ in range(when.choice((1, 1, 2, 8))):
            at = when.randrange(len(value))
            if when.random() < 0.7:
                value[at] ^= when.randrange(1, 256)
            elif when.random() < 0.5:
                del value[at : at + when.randrange(1, 200)]
            else:
                value[at:at] = value[at : at + when.randrange(1, 200)]
        yield (
            resigned(bytes(value), sequence=1000 + n)
            if n % 2
            else Message(good.header, good.signature, bytes(value))
        )


def _malicious(good: Message) -> Iterator[Message]:
    """Arrow streams that are sound and mean harm."""
    table = pa.ipc.open_stream(good.value).read_all()
    at = table.column_names.index("octets_out")
    huge = table.set_column(at, table.field(at), pa.array([2**63] * ROWS, pa.uint64()))
    text = table.column_names.index("store")
    long = table.set_column(text, table.field(text).name, pa.array(["x" * 10**6] * ROWS).dictionary_encode())
    zero = table.set_column(text, table.field(text).name, pa.array(["a\0b"] * ROWS).dictionary_encode())
    twice = table.append_column(table.field(at), table.column(at))
    none = table.slice(0, 0)
    nested = pa.table({"octets_out": pa.array([[1], [2], [3]])})
    for n, each in enumerate((huge, long, zero, twice, none, nested)):
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, each.schema) as writer:
            writer.write_table(each)
        yield resigned(out.getvalue().to_pybytes(), sequence=9000 + n, rows=each.num_rows)
    yield resigned(b"ARROW1\0\0" + b"\xff" * 100, sequence=9100)
    yield resigned(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64), sequence=9101)  # a length of 2 GiB
    yield resigned(b"", sequence=9102)


def _lying(good: Message) -> Iterator[Message]:
    """Headers that say what is not so, signed by the agent all the same."""
    lies: list[dict[str, object]] = [
        {"agent_id": "../../etc/cron.d/x"}, {"agent_id": "<script>alert(1)</script>"}, {"agent_id": "a" * 5000},
        {"agent_id": "db-1\n"}, {"rows": 10**9}, {"rows": -1}, {"rows": 2}, {"sequence": -1}, {"sequence": 2**64},
        {"lane": 7}, {"run_id": "' OR 1=1 --"}, {"key": "zz"}, {"host": "h" * 10**4}, {"dropped": [[1, 2, 3]]},
        {"schema_version": 0}, {"versions": ["not a dict"]},
    ]  # fmt: skip
    for lie in lies:
        yield resigned(good.value, **{"sequence": 9500, **lie})
    about = json.loads(good.header)
    other = json.dumps({**about, "digest": "0" * 64}).encode()
    yield Message(other, KEY.sign(CONTEXT + other), good.value)
    for header in (b"", b"\xff\xfe", b"[]", b"{" * 10_000, b'{"agent_id": 1}', b"{}" + b" " * 70_000):
        yield Message(header, KEY.sign(CONTEXT + header), good.value)


def test_nothing_that_comes_by_the_topic_ends_a_detector_or_changes_a_figure(
    broker: Cluster, kafka: Connection, foe: Foe, tmp_path: Path
) -> None:
    """Among damaged, foreign, oversized, newer, malicious, lying and forged messages the good ones are decided, each once."""
    plan = Plan.of_now(1, 20)
    good = recorded("v1")
    with Road(tmp_path, kafka, plan) as road:
        for name in ("v1", "newer", "older"):
            foe.message(recorded(name))
        foe.close()
        detector = road.detector()
        road.until_decided(detector, recounted=False)
        more = Foe(broker, kafka.topics.flows)
        expected = 0
        for message in (*_damaged(good, FLIPPED, chance("flipped")), *_malicious(good), *_lying(good)):
            more.message(message)
            expected += 1
        more.message(recorded("unreadable"))
        more.message(Message(good.header, bytes(64), good.value))
        thief = FakeAgent(AGENT)
        more.message(thief.message(theft(good_end(), OCTETS, ROWS), sequence=50))
        headers: list[tuple[str, bytes]] = [(HEADER_KEY, good.header), (SIGNATURE_KEY, good.signature)]
        for value, wrong in (
            (b"hello", []), (None, []), (None, headers), (good.value, headers[:1]), (good.value, headers[1:]),
            (good.value, [(HEADER_KEY, b""), (SIGNATURE_KEY, b"")]), (b"\0" * (LARGEST_VALUE + 1), headers),
        ):  # fmt: skip
            more.send(value, wrong, b"db-1")
        more.message(recorded("v1"))
        more.message(resigned(good.value, sequence=20_000, low_water=0), "another key of the record")
        more.close()
        road.until_decided(detector, recounted=False)
        assert detector.stop() == 0
        letters = _letters(kafka)
        bad = more.sent - 2
        fit = expected + 10 - sum(letters.values())
        facts = road.facts(late=True)  # a turned bit may make a row older, or larger
        assert bad == expected + 10
        assert 0 <= fit <= FLIPPED * 0.6, letters
        assert letters["foreign"] == 4 and letters["newer_schema"] == 1 and letters["identity_conflict"] >= 1
        assert {"bad_header", "undecodable", "impossible", "bad_signature", "oversized"} <= letters.keys()
        with road.state() as state:
            streams = {stream[0]: state.taken_of(stream) for stream in state.streams()}
        assert streams.keys() == {AGENT}
        taken = len(streams[AGENT])
        assert taken == 4 + fit, "each was either taken or kept aside"
        others = facts.ledger.keys() - {"as:64500", "unknown"}
        assert len(others) <= fit, "only what the agent itself signed anew may name another network"
        assert {"identity_conflict", "messages_refused"} <= road.events()


def good_end() -> int:
    """When the rows of the recorded messages ended."""
    from tests.tools.recorded import END_NS

    return END_NS


def _letters(kafka: Connection) -> Counter[str]:
    """Dead letters by reason, read as a stranger reads them."""
    return Counter(
        r.headers["sekisho-reason"].decode() for r in topics.read(kafka.servers, kafka.topics.dead)
    )


def test_a_group_of_someone_else_changes_nothing(
    broker: Cluster, kafka: Connection, foe: Foe, tmp_path: Path
) -> None:
    """Somebody reads with the detector's own names as group, commits offsets far ahead and behind: all is decided once."""
    plan = Plan.of_now(1, 20)
    with Road(tmp_path, kafka, plan) as road:
        foe.message(recorded("v1"))
        foe.close()
        others = []
        for group in ("sekisho", "sekisho-detect", "sekisho-detect-db-1", "sekisho-detect-vm"):
            other = KafkaConsumer(
                kafka.topics.flows, bootstrap_servers=broker.bootstrap, group_id=group, client_id=group,
                auto_offset_reset="earliest",
            )  # fmt: skip
            assert topics.until(lambda c=other: c.poll(500), "the other reads")
            other.commit()
            others.append(other)
        detector = road.detector()
        road.until_decided(detector)
        more = Foe(broker, kafka.topics.flows)
        more.message(recorded("older"))
        more.close()
        road.until_decided(detector)
        for other in others:
            other.close()
        assert detector.stop() == 0
        with road.state() as state:
            assert [len(state.taken_of(stream)) for stream in state.streams()] == [2]
        assert sum(road.facts().ledger.values()) == 2 * ROWS * OCTETS
