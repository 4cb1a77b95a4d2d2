"""Reading all partitions of a real broker: offsets that are gone, topics made again, partitions added, brokers away."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from agent.core.errors import CaptureError
from agent.core.kafka import Connection
from collectors import kafka as reading
from collectors.kafka import Place, Reader, Record
from tests.tools.brokers import Cluster
from tests.tools.fleet import make_topics, until


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_S", 0.5)


@pytest.fixture
def admin(broker: Cluster) -> Iterator[KafkaAdminClient]:
    made = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield made
    made.close()


@pytest.fixture
def topic(broker: Cluster) -> str:
    name = f"t{uuid.uuid4().hex}"
    make_topics(broker.bootstrap, names=(name,))
    return name


@pytest.fixture
def reader(broker: Cluster, topic: str) -> Iterator[Reader]:
    made = Reader(Connection(servers=tuple(broker.bootstrap), request_s=5), topic, "test")
    yield made
    made.close()


def _send(broker: Cluster, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, compression_type="zstd")
    for value in values:
        producer.send(topic, value, key=b"a", headers=[("x", b"1"), ("x", b"2")], partition=partition)
    producer.flush()
    producer.close()


def _read(reader: Reader, count: int) -> list[Record]:
    found: list[Record] = []

    def enough() -> bool:
        found.extend(reader.poll(100, 0.2))
        return len(found) >= count

    until(enough, "messages")
    return found


def _values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def test_reading_goes_on_where_the_places_say(broker: Cluster, topic: str, reader: Reader) -> None:
    """Messages come with offset, time and headers; a second reader that is given the places reads what came since."""
    _send(broker, topic, b"1", b"2")
    reader.begin({})
    first = _read(reader, 2)
    assert [(r.partition, r.offset, r.key, dict(r.headers)) for r in first] == [
        (0, 0, b"a", {"x": b"2"}),
        (0, 1, b"a", {"x": b"2"}),
    ]
    assert first[0].append_ns > 10**18
    places = reader.places()
    _send(broker, topic, b"3")
    reader.begin(places)
    assert _values(_read(reader, 1)) == [b"3"]
    assert (reader.lag(), reader.restarts) == (0, 0)


def test_an_offset_that_is_gone_begins_at_the_earliest(
    broker: Cluster, topic: str, reader: Reader, admin: KafkaAdminClient
) -> None:
    """Whether it was deleted or never there."""
    _send(broker, topic, b"1", b"2", b"3")
    reader.begin({})
    _read(reader, 3)
    topic_id = reader.topic_id
    admin.delete_records({TopicPartition(topic, 0): 2})
    for at in (1, 99):
        reader.begin({(topic, 0): Place(topic_id, at)})
        assert _values(_read(reader, 1)) == [b"3"]


def test_a_topic_made_again_is_read_from_its_beginning(
    broker: Cluster, topic: str, reader: Reader, admin: KafkaAdminClient
) -> None:
    """While it is read, and by places of the one before."""
    _send(broker, topic, b"1", b"2")
    reader.begin({})
    _read(reader, 2)
    before = reader.places()
    admin.delete_topics([topic])
    until(lambda: topic not in admin.list_topics(), "end of the topic")
    make_topics(broker.bootstrap, names=(topic,))
    until(_sends(broker, topic, b"new", b"newer", b"newest"), "new topic")
    until(lambda: reader.poll(100, 0.2) == [] and reader.topic_id != before[topic, 0].topic_id, "new id")
    assert reader.restarts > 0
    assert reader.topic_id != before[topic, 0].topic_id
    reader.begin(before)
    assert _values(_read(reader, 3)) == [b"new", b"newer", b"newest"]


def _sends(broker: Cluster, topic: str, *values: bytes) -> Callable[[], bool]:
    def sent() -> bool:
        _send(broker, topic, *values)
        return True

    return sent


def test_a_new_partition_is_found(
    broker: Cluster, topic: str, reader: Reader, admin: KafkaAdminClient
) -> None:
    """Partitions that are added while reading are read from their beginning."""
    reader.begin({})
    _send(broker, topic, b"1")
    _read(reader, 1)
    admin.create_partitions({topic: 3})
    until(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == 3, "partition")
    _send(broker, topic, b"2", partition=2)
    assert _values(_read(reader, 1)) == [b"2"]
    assert reader.places().keys() == {(topic, 0), (topic, 1), (topic, 2)}


def test_a_topic_that_is_not_there_is_waited_for(
    broker: Cluster, reader: Reader, admin: KafkaAdminClient
) -> None:
    """A detector may start before its topic exists."""
    waiting = Reader(Connection(servers=tuple(broker.bootstrap)), f"t{uuid.uuid4().hex}", "test")
    waiting.begin({})
    assert waiting.poll(10, 0.1) == []
    make_topics(broker.bootstrap, names=(waiting.topic,))
    _send(broker, waiting.topic, b"1")
    assert _values(_read(waiting, 1)) == [b"1"]
    waiting.close()


@pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_brokers_that_do_not_answer_are_told(topic: str) -> None:
    """Nobody at the address: an error with the address, and the next call tries again; neither leaves a thread behind."""
    away = Reader(Connection(servers=("127.0.0.1:1",), connect_s=1, request_s=1), topic, "test")
    away.begin({})
    threads = threading.active_count()
    for _ in range(2):
        with pytest.raises(CaptureError, match=r"127\.0\.0\.1:1"):
            away.poll(1, 0.1)
    assert threading.active_count() == threads
