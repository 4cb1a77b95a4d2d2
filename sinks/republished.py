"""Flows one by one to Kafka, for consumers that read JSON: OCSF Network Activity, or plain. A library, no sink.

Costs a Python object and a record per flow: as OCSF some sixty times what the archive does with a row (measured). Each record has a header
``sekisho-row``, run.lane.sequence.row: the same again is the same flow again.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from agent.core.errors import SinkError
from agent.core.faults import faultpoint
from agent.core.flow import FlowBatch
from agent.core.kafka import Connection
from sinks.jsonl import flow_lines
from sinks.kafka import Producer
from sinks.ocsf_events.flows import flow_events

ROW_KEY: Final = "sekisho-row"
"""Name of the header."""


class Republished:
    """Implements :class:`agent.receiving.copying.Taker`: takes batches once every broker that must has each of their flows."""

    def __init__(
        self,
        connection: Connection,
        client_id: str,
        *,
        ocsf: bool,
        json_lines: bool,
        community_id: bool = False,
    ) -> None:
        """Connects nowhere yet."""
        self.sent = 0
        """Records that the brokers have, of this run."""
        self._topics, self._most = connection.topics, connection.in_flight_octets
        self._ocsf, self._json, self._community_id = ocsf, json_lines, community_id
        self._producer = Producer(connection, client_id)
        self._changed = threading.Condition()
        self._open = self._octets = self._turn = 0
        self._failure: SinkError | None = None

    def take(self, batches: Sequence[FlowBatch]) -> str:
        """Send every row and wait for all answers. Raises :class:`~agent.core.errors.SinkError`."""
        if not batches:
            return ""
        self._producer.connect()
        with self._changed:
            self._turn += 1
            self._open, self._octets, self._failure = 0, 0, None
        for batch in batches:
            for topic, row, value in self._records(batch):
                self._send(topic, batch, row, value)
        faultpoint("republish.after_send")
        self._wait(1)
        return ""

    def undo(self) -> None:
        """Nothing can be taken back: what was answered is there, and comes again."""
        self._producer.disconnect()

    def settled(self) -> None:
        """Nothing is kept here."""

    def between(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Let go of the connection."""
        self._producer.disconnect()

    def _records(self, batch: FlowBatch) -> Iterator[tuple[str, int, bytes]]:
        """Topic, number of the row, value."""
        if self._ocsf:
            for row, event in enumerate(flow_events(batch, community_id=self._community_id)):
                text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
                yield self._topics.flows_ocsf, row, text.encode()
        if self._json:
            lines = flow_lines(batch.with_header(versions={}), community_id=self._community_id)
            for row, line in enumerate(lines.splitlines()):
                yield self._topics.flows_json, row, line

    def _send(self, topic: str, batch: FlowBatch, row: int, value: bytes) -> None:
        about = batch.header
        name = f"{about.run_id}.{about.lane}.{about.sequence}.{row}".encode()
        self._wait(self._most)
        with self._changed:
            self._octets += len(value)
            self._open += 1
        done = functools.partial(self._answered, self._turn, len(value))
        self._producer.send(topic, about.agent_id.encode(), value, [(ROW_KEY, name)], done)

    def _answered(self, turn: int, octets: int, error: SinkError | None) -> None:
        """Called by the client's thread."""
        with self._changed:
            if turn != self._turn:
                return
            self._open -= 1
            self._octets -= octets
            if error is None:
                self.sent += 1
            else:
                self._failure = self._failure or error
            self._changed.notify_all()

    def _wait(self, octets: int) -> None:
        """Until less than this is unanswered. Raises the fault of any answer."""
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._failure is not None or self._octets < octets, self._producer.longest_s
            )
            failure = self._failure
        if failure is not None:
            raise failure
        if not in_time:
            raise SinkError("kafka: no answer in time", retriable=True)
