"""Where simulated messages go: to Kafka as agents send them, into files, or nowhere but into a sum."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

from agent.core.errors import DecodeError, SinkError
from agent.core.kafka import Connection
from agent.core.message import Message
from agent.simulation.agents import Sent
from sinks.kafka import KafkaCarrier

_LENGTH: Final = struct.Struct("<I")
_FILE_OCTETS: Final = 64 * 2**20
_CLIENT: Final = "sekisho-simulate"


class Output(Protocol):
    """Takes messages. ``close`` waits until all are where they should be."""

    octets: int
    """Of all messages, compressed as they travel."""

    def put(self, sent: Sent) -> None:
        """Take one."""

    def close(self) -> None:
        """Nothing more comes."""


class Counted:
    """Compresses each message as the producer would, and forgets it."""

    def __init__(self) -> None:
        self.octets = 0
        self._compressor = zstandard.ZstdCompressor()

    def put(self, sent: Sent) -> None:
        """See :class:`Output`."""
        self.octets += _size(sent.message, len(self._compressor.compress(sent.message.value)))

    def close(self) -> None:
        """Nothing is held."""


class Files:
    """Messages one after another in files of about 64 MiB; :func:`read_files` gives them back."""

    def __init__(self, folder: Path) -> None:
        """Make the folder. Raises ``FileExistsError`` where there are messages in it, ``OSError``."""
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.messages")):
            raise FileExistsError(17, "there are messages in it", str(folder))
        self.octets = 0
        self._folder, self._number = folder, 0
        self._file = self._next()

    def put(self, sent: Sent) -> None:
        """See :class:`Output`."""
        packed = sent.message.pack()
        if self._file.tell() > _FILE_OCTETS:
            self._file.close()
            self._file = self._next()
        self._file.write(_LENGTH.pack(len(packed)) + packed)
        self.octets += len(packed)

    def close(self) -> None:
        """Close the last file."""
        self._file.close()

    def _next(self) -> BinaryIO:
        self._number += 1
        return (self._folder / f"{self._number:06d}.messages").open("xb")


class ToKafka:
    """The carrier of agents, to a topic of the simulation's own."""

    def __init__(self, connection: Connection, topic: str) -> None:
        """Connect. Raises :class:`SinkError`."""
        topics = connection.topics.model_copy(update={"flows": topic})
        self.octets = 0
        self._most = connection.in_flight_octets
        self._carrier = KafkaCarrier(connection.model_copy(update={"topics": topics}), _CLIENT)
        self._flying, self._room = 0, threading.Condition()
        self._failed: SinkError | None = None
        self._patience_s = 3 * connection.request_s
        self._carrier.connect()

    def put(self, sent: Sent) -> None:
        """See :class:`Output`. Waits while much is on its way. Raises :class:`SinkError`."""
        size = len(sent.message.value)
        with self._room:
            self._wait(self._most)
            self._flying += size
        self._carrier.send(sent.message, sent.agent_id, lambda error: self._answered(size, error))
        self.octets += size

    def close(self) -> None:
        """Wait for every answer and let go. Raises :class:`SinkError`."""
        try:
            with self._room:
                self._wait(1)
        finally:
            self._carrier.disconnect()

    def _answered(self, size: int, error: SinkError | None) -> None:
        with self._room:
            self._flying -= size
            self._failed = self._failed or error
            self._room.notify_all()

    def _wait(self, most: int) -> None:
        """Until less than that is on its way."""
        come = self._room.wait_for(lambda: self._flying < most or self._failed, self._patience_s)
        if self._failed is not None:
            raise self._failed
        if not come:
            raise SinkError("kafka: no answer in time", retriable=True)


def read_files(folder: Path) -> Iterator[Message]:
    """Every message that :class:`Files` wrote, in order. Raises :class:`DecodeError`, ``OSError``."""
    for path in sorted(folder.glob("*.messages")):
        data = memoryview(path.read_bytes())
        at = 0
        while at < len(data):
            if at + _LENGTH.size > len(data):
                raise DecodeError("the file ends within a message", source=str(path), offset=at)
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            yield Message.unpack(bytes(data[at : at + length]))
            at += length


def _size(message: Message, value: int) -> int:
    return len(message.header) + len(message.signature) + value
