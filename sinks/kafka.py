"""Kafka (https://kafka.apache.org): notices as OCSF events to one topic, sealed batches and heartbeats to two others.

What is handed over counts as delivered when every in-sync replica has it (acks=all, idempotent). Nothing is given up
for want of time here: whoever sends keeps it, the outbox for notices and the spool for batches, and sends it again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import tzinfo
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from agent.core.errors import SinkError
from agent.core.finding import Notice
from agent.core.flow import FlowBatch
from agent.core.kafka import Connection, in_words, let_go, made_by
from agent.core.message import HEADER_KEY, LARGEST_VALUE, SIGNATURE_KEY, Message
from agent.core.stages import Context, SinkSettings
from sinks.ocsf_events.findings import Rendering, finding_event

Done = Callable[[SinkError | None], None]

_BATCH_OCTETS: Final = 768 * 2**10
"""Several messages that wait are compressed together; below the 1 MiB that a broker takes unless told otherwise."""
_WAIT_FOR_TOPIC_S: Final = 5.0


class Settings(SinkSettings):
    """Where notices go in Kafka, and how they look there."""

    connection: Connection | None = Field(
        None, description="Another Kafka than that of the settings' `kafka`"
    )
    topic: str | None = Field(None, description="Topic; none is kafka.topics.alerts")
    rendering: Rendering = Field(
        "data_security_finding",
        description="Class of findings; detection_finding for tools that know only 2004",
    )
    attack_tags: bool = Field(
        True, description="Tag findings with the ATT&CK tactic that analysts file them under"
    )
    language: Literal["en", "ja"] | None = Field(
        None, description="Of title and text; none is the program's own"
    )

    def build(self, context: Context) -> Kafka:
        """Make the sink; connects nowhere yet."""
        zone = ZoneInfo(context.zone) if context.zone else None
        return Kafka(self, self.connection or context.kafka, self.language or context.language, zone)


class Kafka:
    """Sends each notice at once and waits until it is delivered. Blocks for at most ``connect_s`` plus ``request_s``."""

    name = "kafka"
    takes_flows = False
    takes_notices = True

    def __init__(
        self, settings: Settings, connection: Connection | None, language: str, zone: tzinfo | None
    ) -> None:
        self._settings, self._language, self._zone = settings, language, zone
        self._topic = settings.topic or (connection.topics.alerts if connection else "")
        self._producer = Producer(connection, "sekisho-alerts") if connection else None

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Deliver the notice. Raises :class:`~agent.core.errors.SinkError`."""
        if self._producer is None:
            raise SinkError(
                "the sink kafka knows no brokers: set kafka.servers, or connection.servers of the sink",
                retriable=True,
            )
        event = finding_event(
            notice,
            rendering=self._settings.rendering,
            attack_tags=self._settings.attack_tags,
            language=self._language,
            zone=self._zone,
        )
        key = (notice.case.id if notice.case else notice.host or notice.id).encode()
        answer: list[SinkError | None] = []
        answered = threading.Event()

        def done(error: SinkError | None) -> None:
            answer.append(error)
            answered.set()

        value = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        self._producer.connect()
        self._producer.send(self._topic, key, value, [("sekisho-notice", notice.id.encode())], done)
        in_time = answered.wait(self._producer.longest_s)
        error = answer[0] if in_time else SinkError("kafka: no answer in time", retriable=True)
        if error is not None:
            self._producer.disconnect()
            raise error

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Let go of the connection."""
        if self._producer is not None:
            self._producer.disconnect()


class Producer:
    """One connection that sends; made anew after each fault, with the secrets and addresses of then. Not thread-safe."""

    def __init__(self, connection: Connection, client_id: str) -> None:
        self.connection, self._client_id = connection, client_id
        self._client: Any = None

    @property
    def longest_s(self) -> float:
        """How long an answer may take."""
        return 2 * self.connection.request_s + 1.0

    def connect(self) -> None:
        """Be connected. Blocks up to ``connect_s``. Raises :class:`~agent.core.errors.SinkError`."""
        if self._client is not None:
            return
        from kafka import KafkaProducer

        with made_by(self.connection, self._client_id) as options:
            self._client = KafkaProducer(
                **options,
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                batch_size=_BATCH_OCTETS,
                linger_ms=0,
                max_request_size=LARGEST_VALUE + 2**20,
                max_block_ms=int(_WAIT_FOR_TOPIC_S * 1000),
                delivery_timeout_ms=int(2 * self.connection.request_s * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )

    def send(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], done: Done
    ) -> None:
        """Send one record; ``done`` hears of it from another thread. Raises :class:`~agent.core.errors.SinkError`."""
        from kafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

        try:
            future = self._client.send(topic, value=value, key=key, headers=headers)
        except KafkaTimeoutError as error:  # connected, and yet nobody names the topic's partitions
            raise in_words(UnknownTopicOrPartitionError(), self.connection, topic) from error
        except (KafkaError, OSError) as error:
            raise in_words(error, self.connection, topic) from error
        future.add_callback(lambda _kept: done(None))
        future.add_errback(lambda error: done(in_words(error, self.connection, topic)))

    def disconnect(self) -> None:
        """Let go; what was not answered is given up."""
        client, self._client = self._client, None
        if client is not None:
            let_go(client)


class KafkaCarrier:
    """Implements :class:`agent.core.stages.Carrier`."""

    def __init__(self, connection: Connection, client_id: str = "sekisho-agent") -> None:
        self._producer = Producer(connection, client_id)
        self._topics = connection.topics

    @property
    def longest_s(self) -> float:
        """See :class:`agent.core.stages.Carrier`: what the client gives itself, and one request more."""
        return 3 * self._producer.connection.request_s

    def connect(self) -> None:
        """See :class:`agent.core.stages.Carrier`."""
        self._producer.connect()

    def send(self, message: Message, agent_id: str, done: Done) -> None:
        """See :class:`agent.core.stages.Carrier`."""
        headers = [(HEADER_KEY, message.header), (SIGNATURE_KEY, message.signature)]
        self._producer.send(self._topics.flows, agent_id.encode(), message.value, headers, done)

    def tell(self, agent_id: str, signature: bytes, heartbeat: bytes, done: Done) -> None:
        """See :class:`agent.core.stages.Carrier`."""
        self._producer.send(
            self._topics.agents, agent_id.encode(), heartbeat, [(SIGNATURE_KEY, signature)], done
        )

    def disconnect(self) -> None:
        """See :class:`agent.core.stages.Carrier`."""
        self._producer.disconnect()
