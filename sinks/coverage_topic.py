"""What was observed, as JSON to the topic of coverage: one record for hours of a host, or windows of a rule. A library,
no sink.

Each record has an ``id``, and ``made``, a number that grows. A record that was sent and not marked as sent comes again with
both as they were. Of records that tell of the same time the one with the highest ``made`` counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.core.kafka import Connection, in_words, let_go, quiet, refuse_slow_checksums

ID_KEY: Final = "sekisho-receipt"
"""Name of the header with id and ``made``."""
_WAIT_S: Final = 20.0
_CLOSE_S: Final = 1.0


class CoverageTopic:
    """Sends records and waits until the brokers have them. Not thread-safe."""

    def __init__(self, connection: Connection, client_id: str) -> None:
        """Connects nowhere yet."""
        self._connection, self._client_id = connection, client_id
        self._topic = connection.topics.coverage
        self._producer: Any = None

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Deliver all. Raises :class:`~agent.core.errors.SinkError`; then some may have come, and come again."""
        from kafka.errors import KafkaError

        try:
            producer = self._connected()
            sent = [
                producer.send(
                    self._topic,
                    key=str(record["host"] if record["kind"] == "hours" else record["store"]).encode(),
                    value=json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(),
                    headers=[(ID_KEY, f"{record['id']}#{record['made']}".encode())],
                )
                for record in records
            ]
            for future in sent:
                future.get(timeout=_WAIT_S)
        except (KafkaError, OSError, ValueError) as error:
            self.close()
            raise in_words(error, self._connection, self._topic) from error

    def close(self) -> None:
        """Let go of the connection."""
        producer, self._producer = self._producer, None
        if producer is not None:
            let_go(producer, _CLOSE_S)

    def _connected(self) -> Any:
        if self._producer is None:
            from kafka import KafkaProducer

            quiet()
            refuse_slow_checksums()
            options = self._connection.options(self._client_id)
            options |= {
                "acks": "all",
                "enable_idempotence": True,
                "compression_type": "zstd",
                "max_block_ms": 10_000,
                "allow_auto_create_topics": False,
            }
            self._producer = KafkaProducer(**options)
        return self._producer
