"""The agent's side of enrolment: make the key, ask, hear the answer. Everything may be done again."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent.core.clock import SECOND_NS, Clock
from agent.core.enrolment import Reason, Request, Token, answered, ask
from agent.core.errors import CaptureError, DecodeError, SinkError, StateError
from agent.core.kafka import Connection
from agent.core.said import said
from agent.sending.identity import Identity, identity
from collectors.kafka import Reader
from sinks.kafka import Producer

State = Literal["enrolled", "refused", "pending"]
NEXT: Final = "next-key"
"""Folder, in the state folder, of the key that takes the place of the present one once it is enrolled."""
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How asking ended."""

    state: State
    reason: Reason
    agent_id: str
    public_key: str
    proven: bool
    """Whether the answer is known to be the detector's."""


def join(
    connection: Connection,
    token: Token,
    *,
    agent_id: str,
    host: str,
    key: Identity,
    clock: Clock,
    wait_s: float,
    asked: Callable[[], None] = lambda: None,
) -> Outcome:
    """Ask, and wait so long for the answer. Raises :class:`SinkError` where Kafka cannot be reached."""
    request = Request(
        agent_id=agent_id,
        nonce=secrets.token_hex(16),
        time_ns=clock.now_ns(),
        host=host[:255],
        public_key=key.public.hex(),
        token_id=token.id,
    )
    client_id, topic = f"sekisho-enrol-{agent_id[:24]}", connection.topics.enrolment
    reader = Reader(connection, topic, client_id)
    try:
        if wait_s > 0:
            _skip(reader)
        _send(connection, client_id, request, key, token)
        asked()
        return _heard(reader, request, token, clock, wait_s)
    finally:
        reader.close()


def key_of(state_dir: Path, *, new: bool) -> Identity:
    """This host's key, made if there is none; ``new``: the one that is to take its place, which waits in a folder beside."""
    key = identity(state_dir / NEXT if new else state_dir)
    if os.geteuid() == 0:
        give_to_owner(state_dir)
    return key


def take_new(state_dir: Path) -> None:
    """The new key is enrolled: put it in place of the old one. Raises :class:`StateError`."""
    made = state_dir / NEXT / "agent.key"
    try:
        made.replace(state_dir / made.name)
        made.parent.rmdir()
    except OSError as error:
        raise StateError(f"{made}: {error.strerror}; move it to {state_dir / made.name} by hand") from error


def give_to_owner(state_dir: Path) -> None:
    """What root made for the agent belongs to the agent's user. Raises :class:`StateError`."""
    try:
        owner = state_dir.stat()
        for path in (
            state_dir / "agent.key",
            state_dir / "agent-id",
            state_dir / NEXT,
            state_dir / NEXT / "agent.key",
        ):
            if path.exists():
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except OSError as error:
        raise StateError(
            f"{state_dir}: {error.strerror}; the agent's user must be able to read its key"
        ) from error


def _skip(reader: Reader) -> None:
    try:
        reader.skip()
    except CaptureError as error:
        raise SinkError(str(error), retriable=True) from error


def _send(connection: Connection, client_id: str, request: Request, key: Identity, token: Token) -> None:
    value, headers = ask(request, key.sign, token)
    producer = Producer(connection, client_id)
    answer: list[SinkError | None] = []
    came = threading.Event()

    def done(error: SinkError | None) -> None:
        answer.append(error)
        came.set()

    try:
        producer.connect()
        producer.send(
            connection.topics.enrolment, request.agent_id.encode(), value, list(headers.items()), done
        )
        if not came.wait(producer.longest_s):
            raise SinkError("kafka: no answer in time", retriable=True)
        if answer[0] is not None:
            raise answer[0]
    finally:
        producer.disconnect()


def _heard(reader: Reader, request: Request, token: Token, clock: Clock, wait_s: float) -> Outcome:
    end_ns = clock.monotonic_ns() + int(wait_s * SECOND_NS)
    doubtful: Reason = ""
    while clock.monotonic_ns() < end_ns:
        try:
            records = reader.poll(100, _POLL_S)
        except CaptureError:
            break
        for record in records:
            found = answered(dict(record.headers), record.value, request, token)
            if found is None:
                continue
            said, proven = found
            if proven:
                return Outcome(
                    "refused" if said.reason else "enrolled",
                    said.reason,
                    request.agent_id,
                    request.public_key,
                    True,
                )
            doubtful = said.reason
        if doubtful:
            return Outcome("refused", doubtful, request.agent_id, request.public_key, False)
    return Outcome("pending", "", request.agent_id, request.public_key, False)


def token_of(text: str | None) -> Token:
    """The token of an argument. Raises :class:`DecodeError`."""
    if not text or not text.strip():
        raise DecodeError(
            said("the token is empty; expected sekisho1-…, as `sekisho enrolment token` prints it")
        )
    return Token.parse(text)
