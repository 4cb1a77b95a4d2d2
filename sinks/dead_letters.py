"""Messages that nobody could read go to a topic of their own, as they came, with the reason. A library, no sink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.core.kafka import Connection, in_words, let_go, quiet, refuse_slow_checksums

REASON_KEY: Final = "sekisho-reason"
DETAIL_KEY: Final = "sekisho-detail"
ORIGIN_KEY: Final = "sekisho-origin"
"""Names of the headers: why in one word, why in a sentence, and topic/partition/offset."""
_WAIT_S: Final = 10.0
_CLOSE_S: Final = 1.0


class DeadLetters:
    """Sends to the topic of dead letters. Not thread-safe."""

    def __init__(self, connection: Connection, client_id: str) -> None:
        """Connects nowhere yet."""
        self._connection, self._client_id = connection, client_id
        self._topic = connection.topics.dead
        self._producer: Any = None
        self._sent: list[Any] = []

    def send(
        self, key: bytes, headers: Mapping[str, bytes], value: bytes, *, reason: str, detail: str, origin: str
    ) -> None:
        """Hand a letter over; :meth:`flush` waits for it. Raises :class:`~agent.core.errors.SinkError`."""
        from kafka.errors import KafkaError, MessageSizeTooLargeError

        told = {REASON_KEY: reason, DETAIL_KEY: detail[:1000], ORIGIN_KEY: origin}
        given = [*headers.items(), *((name, text.encode(errors="replace")) for name, text in told.items())]
        try:
            try:
                self._sent.append(
                    self._connected().send(self._topic, value=value, key=key or None, headers=given)
                )
            except MessageSizeTooLargeError:
                self._sent.append(self._connected().send(self._topic, value=b"", headers=given[-len(told) :]))
        except (KafkaError, OSError, ValueError) as error:
            self.close()
            raise in_words(error, self._connection, self._topic) from error

    def flush(self) -> None:
        """Wait until the brokers have all that was handed over. Raises :class:`~agent.core.errors.SinkError`."""
        from kafka.errors import KafkaError

        sent, self._sent = self._sent, []
        try:
            for future in sent:
                future.get(timeout=_WAIT_S)
        except (KafkaError, OSError) as error:
            self.close()
            raise in_words(error, self._connection, self._topic) from error

    def close(self) -> None:
        """Let go of the connection."""
        producer, self._producer, self._sent = self._producer, None, []
        if producer is not None:
            let_go(producer, _CLOSE_S)

    def _connected(self) -> Any:
        if self._producer is None:
            from kafka import KafkaProducer

            quiet()
            refuse_slow_checksums()
            options = self._connection.options(self._client_id)
            options |= {"acks": "all", "compression_type": "zstd", "max_block_ms": int(_WAIT_S * 1000)}
            self._producer = KafkaProducer(**options)
        return self._producer
