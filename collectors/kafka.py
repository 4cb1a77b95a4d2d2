"""Reads every partition of a Kafka topic, from offsets that the caller keeps. A library of the detector and the
archiver, no stage: what comes is sealed already, and whoever reads it must commit what it did with it.

Partitions are assigned, not shared out by a group: a group of someone else changes nothing here, and Kafka's own
committed offsets are not used. An offset that is gone, or a topic that was deleted and made again, begins at the
earliest message there is; ids of batches tell what came before.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import zstandard

from agent.core.errors import CaptureError, SinkError
from agent.core.kafka import Connection, hearing, in_words, meant, quiet, refuse_slow_checksums
from agent.core.log import Log
from agent.core.said import said

FETCH_OCTETS: Final = 16 * 2**20
"""Compressed octets of one answer; the client holds one such answer per broker, and what a message of it unpacks to."""
PARTITION_OCTETS: Final = 4 * 2**20
LOOK_S: Final = 5.0
"""How often new partitions and a new topic are looked for."""
_HOLE: Final = 1_000
"""Offsets in a row that may be without a message, such as markers of transactions."""
_AT_ONCE: Final = 64 * 2**20
_OF_THREAD: Final = threading.local()
"""A context for decompression is nobody else's."""
_LOG_APPEND_TIME: Final = 1
_MS: Final = 1_000_000

Partition = tuple[str, int]
"""(topic, number)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message as the broker has it."""

    partition: int
    offset: int
    append_ns: int
    """When the broker took it; where the topic keeps the producer's time instead, that, but never later than now."""
    key: bytes
    headers: Mapping[str, bytes]
    """Of headers with one name, the last."""
    value: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on in one partition."""

    topic_id: str
    next_offset: int


class Reader:
    """All partitions of one topic. Not thread-safe."""

    def __init__(self, connection: Connection, topic: str, client_id: str) -> None:
        """Connects nowhere yet."""
        self.topic, self.topic_id = topic, ""
        self.restarts = 0
        """Partitions that were begun anew: their offset was gone, or their topic was another."""
        self._connection, self._client_id = connection, client_id
        self._consumer: Any = None
        self._admin: Any = None
        self._looked_s = 0.0
        self._next: dict[int, int] = {}
        self._begun_at: Mapping[Partition, Place] = {}
        self._log = Log(part="kafka")

    def begin(self, places: Mapping[Partition, Place]) -> None:
        """Read on from there; partitions that are not named begin at their earliest message."""
        self._begun_at = places
        self._next.clear()
        self.topic_id = ""
        self.close()

    def poll(self, most: int, wait_s: float) -> list[Record]:
        """Up to ``most`` messages, after at most ``wait_s``; in the order of their offsets within each partition.

        Raises :class:`CaptureError` if the brokers do not answer or refuse; the next call tries again.
        """
        from kafka.errors import KafkaError

        try:
            self._look()
            if self._consumer is None or not self._next:
                time.sleep(wait_s)  # there is no topic yet
                return []
            found = self._consumer.poll(timeout_ms=int(wait_s * 1000), max_records=most)
        except (KafkaError, OSError, SinkError, ValueError) as error:
            self.close()
            raise CaptureError(
                said(
                    "{reason} (topic {topic})",
                    reason=in_words(error, self._connection, self.topic, reading=True).args[0],
                    topic=self.topic,
                )
            ) from error
        now_ns = time.time_ns()
        records = [_record(r, now_ns) for rows in found.values() for r in rows]
        for record in records:
            self._note(record)
        return records

    def skip(self) -> bool:
        """Pass over all that is there now; False while there is no topic. Raises :class:`CaptureError`."""
        from kafka.errors import KafkaError

        try:
            self._look()
            if self._consumer is None or not self._next:
                return False
            parts = self._consumer.assignment()
            ends = self._consumer.end_offsets(list(parts))
            for tp in parts:
                self._consumer.seek(tp, ends[tp])
                self._next[tp.partition] = int(ends[tp])
        except (KafkaError, OSError, SinkError, ValueError) as error:
            self.close()
            raise CaptureError(
                said(
                    "{reason} (topic {topic})",
                    reason=in_words(error, self._connection, self.topic, reading=True).args[0],
                    topic=self.topic,
                )
            ) from error
        return True

    def places(self) -> dict[Partition, Place]:
        """Where to go on after all that was handed out."""
        return {(self.topic, number): Place(self.topic_id, at) for number, at in self._next.items()}

    def behind(self) -> list[int] | None:
        """Partitions of which messages wait at the brokers; None while not all have told."""
        if self._consumer is None or not self._next:
            return None
        ends = {
            tp.partition: (self._consumer.highwater(tp), self._consumer.position(tp))
            for tp in self._consumer.assignment()
        }
        if any(end is None for end, _ in ends.values()):
            return None
        return [number for number, (end, at) in ends.items() if int(end) > int(at)]

    def lag(self) -> int | None:
        """Messages that wait at the brokers, as far as the last answers told; None while not all have told."""
        if self._consumer is None or not self._next:
            return None
        ends = [
            (self._consumer.highwater(tp), self._consumer.position(tp)) for tp in self._consumer.assignment()
        ]
        if any(end is None for end, _ in ends):
            return None
        return sum(max(0, int(end) - int(at)) for end, at in ends)

    def close(self) -> None:
        """Let go of every connection; the next ``poll`` makes new ones."""
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        self._looked_s = 0.0
        for client in (consumer, admin):
            if client is not None:
                client.close()

    def _note(self, record: Record) -> None:
        expected = self._next.get(record.partition, 0)
        if record.offset < expected or (expected and record.offset > expected + _HOLE):
            self.restarts += 1
            self._log.warning(
                "offset_gone",
                partition=record.partition,
                wanted=expected,
                found=record.offset,
                topic=self.topic,
            )
        self._next[record.partition] = record.offset + 1

    def _look(self) -> None:
        """Find the topic and its partitions, now and then."""
        if self._consumer is not None and time.monotonic() - self._looked_s < LOOK_S:
            return
        self._connect()
        self._looked_s = time.monotonic()
        found = self._describe()
        if found is None:
            return
        topic_id, numbers = found
        if self.topic_id and topic_id != self.topic_id:
            self._log.warning("topic_made_again", topic=self.topic, before=self.topic_id, now=topic_id)
            self.restarts += len(self._next)
            self._next.clear()
            self._consumer.close()
            self._consumer = None
            self._connect()
        self.topic_id = topic_id
        self._assign(numbers)

    def _assign(self, numbers: Iterable[int]) -> None:
        from kafka import TopicPartition

        wanted = {TopicPartition(self.topic, n) for n in numbers}
        if not wanted or wanted == self._consumer.assignment():
            return
        self._consumer.assign(list(wanted))
        for tp in wanted:
            at = self._next.get(tp.partition)
            if at is None:
                at = self._begin_of(tp.partition)
            self._next[tp.partition] = at
            self._consumer.seek(tp, at)

    def _begin_of(self, number: int) -> int:
        place = self._begun_at.get((self.topic, number))
        if place is None:
            return 0
        if place.topic_id not in ("", self.topic_id):
            self.restarts += 1
            self._log.warning("topic_made_again", topic=self.topic, before=place.topic_id, now=self.topic_id)
            return 0
        return place.next_offset

    def _describe(self) -> tuple[str, list[int]] | None:
        """The topic's id and its partitions; None while there is no such topic."""
        (topic,) = self._admin.describe_topics([self.topic])
        if topic["error_code"] or not topic["partitions"]:
            return None
        return str(topic["topic_id"]), sorted(p["partition_index"] for p in topic["partitions"])

    def _connect(self) -> None:
        from kafka import KafkaAdminClient, KafkaConsumer
        from kafka.errors import KafkaError

        if self._consumer is not None:
            return
        quiet()
        refuse_slow_checksums()
        _unpack_at_once()
        options = self._connection.options(self._client_id)
        if self._admin is None:
            known = {name: value for name, value in options.items() if name != "metrics_enabled"}
            with hearing() as heard:
                try:
                    self._admin = _made(KafkaAdminClient, known)
                except KafkaError as error:
                    raise meant(error, heard, self._connection) from error
        reading = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_bytes": FETCH_OCTETS,
            "max_partition_fetch_bytes": PARTITION_OCTETS,
            "isolation_level": "read_committed",
        }
        self._consumer = _made(KafkaConsumer, options | reading)


def _made(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A client of the library. One that cannot be made leaves no thread and no socket behind, as the library does."""
    from kafka.net.compat import KafkaNetClient

    begun: list[Any] = []

    def client(**config: Any) -> Any:
        begun.append(KafkaNetClient(**config))
        return begun[-1]

    try:
        return kind(**options, kafka_client=client)
    except BaseException:
        for one in begun:
            one.close()
        raise


def _unpack_at_once() -> None:
    """Have the library decompress as :func:`unpacked` does; it makes a new context for each answer and copies twice."""
    from kafka.record import default_records

    if hasattr(default_records, "zstd_decode"):
        default_records.zstd_decode = unpacked


def unpacked(payload: bytes) -> bytes:
    """What zstd frames hold: in one go where there is one that says how much it holds, and that is no more than a broker
    takes from whoever writes here; else piece by piece, as the library does. Raises ``zstandard.ZstdError``.
    """
    size = zstandard.frame_content_size(payload)
    if 0 < size <= _AT_ONCE:
        if not hasattr(_OF_THREAD, "decompressor"):
            _OF_THREAD.decompressor = zstandard.ZstdDecompressor()
        with contextlib.suppress(
            zstandard.ZstdError
        ):  # more frames follow, or it is broken, which is told below
            whole: bytes = _OF_THREAD.decompressor.decompress(payload, allow_extra_data=False)
            return whole
    from kafka.codec import zstd_decode

    pieces: bytes = zstd_decode(payload)
    return pieces


def _record(record: Any, now_ns: int) -> Record:
    append_ns = max(0, record.timestamp or 0) * _MS
    if record.timestamp_type != _LOG_APPEND_TIME:
        append_ns = min(append_ns, now_ns)
    headers = {str(name): bytes(value) for name, value in record.headers or () if value is not None}
    return Record(
        record.partition,
        record.offset,
        append_ns,
        bytes(record.key or b""),
        headers,
        bytes(record.value) if record.value is not None else b"",
    )
