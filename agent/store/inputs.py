"""What the detector remembers of its input: offsets of Kafka, keys of agents, and which batches are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from agent.core.accounts import Amounts
from agent.store import schema
from agent.store.coverage import Covered, put_covered
from agent.store.database import Database
from agent.store.enrolments import Enrolled, put_enrolled
from agent.store.sequences import Intervals, Stream

Partition = tuple[str, int]
"""(topic, number)."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far one partition was taken."""

    topic_id: str
    """Kafka's id of the topic; another topic of the same name has another."""
    next_offset: int


@dataclass(frozen=True, slots=True)
class Pin:
    """The key that signs for an agent."""

    public_key: bytes
    how: Literal["first", "enrolled", "revoked"]


@dataclass(slots=True)
class Said:
    """What the messages of one stream have told of it, and what follows."""

    low_water: int = 0
    dropped: Intervals = field(default_factory=Intervals)
    missing: Intervals = field(default_factory=Intervals)
    """Below the low-water mark, neither taken nor dropped: the gap."""
    told: int = 0
    """How many of the missing people were told of."""

    def copy(self) -> Said:
        """The same, apart."""
        return Said(self.low_water, self.dropped.copy(), self.missing.copy(), self.told)


DeadKey = tuple[str, str, int, bytes, str]
"""(agent id, run id, lane, public key that signed, reason)."""


@dataclass(slots=True)
class Dead:
    """Batches of one stream that were refused for one reason, though that key had signed them."""

    sequences: Intervals = field(default_factory=Intervals)
    unread: Intervals = field(default_factory=Intervals)
    """Of these, those whose rows nobody could read."""
    amounts: Amounts = field(default_factory=Amounts)
    """Of the others."""

    def copy(self) -> Dead:
        """The same, apart."""
        return Dead(self.sequences.copy(), self.unread.copy(), self.amounts)


@dataclass(frozen=True, slots=True)
class Intake:
    """What one commit changes here. Written with the rest of the commit or not at all."""

    offsets: Mapping[Partition, Offset] = field(default_factory=dict)
    pins: Mapping[str, Pin] = field(default_factory=dict)
    said: Mapping[Stream, Said] = field(default_factory=dict)
    dead: Mapping[DeadKey, Dead] = field(default_factory=dict)
    enrolled: Sequence[Enrolled] = ()
    covered: Covered = field(default_factory=Covered)
    """What is known of agents and of what was observed."""


class Inputs:
    """Questions to these tables. Blocks on the disk; raises :class:`~agent.core.errors.StateError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def offsets(self) -> dict[Partition, Offset]:
        """How far each partition was taken."""
        t = schema.inputs.c
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.topic, t.partition, t.topic_id, t.next_offset)).all()
        return {(topic, number): Offset(topic_id, at) for topic, number, topic_id, at in rows}

    def pins(self) -> dict[str, Pin]:
        """Every agent's key."""
        t = schema.identities.c
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.agent_id, t.public_key, t.how)).all()
        return {agent: Pin(bytes(key), how) for agent, key, how in rows}

    def said(self) -> dict[Stream, Said]:
        """What each stream told of itself."""
        t = schema.gaps.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(t.agent_id, t.run_id, t.lane, t.low_water, t.dropped, t.missing, t.told)
            ).all()
        return {
            (agent, run, lane): Said(low, Intervals.parse(dropped), Intervals.parse(missing), told)
            for agent, run, lane, low, dropped, missing, told in rows
        }

    def dead(self) -> dict[DeadKey, Dead]:
        """Every batch that was refused and rightly signed by some key."""
        t = schema.dead.c
        names = (t.agent_id, t.run_id, t.lane, t.public_key, t.reason, t.sequences, t.unread)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*names, t.flows, t.octets_out, t.octets_in)).all()
        return {
            (agent, run, lane, bytes(key), reason): Dead(
                Intervals.parse(sequences), Intervals.parse(unread), Amounts(*amounts)
            )
            for agent, run, lane, key, reason, sequences, unread, *amounts in rows
        }

    def enrol(self, agent_id: str, public_key: bytes, now_ns: int) -> None:
        """Pin a key to an agent's id, in place of any other."""
        with self._database.write() as connection:
            put_enrolled(connection, [Enrolled(agent_id, public_key, "", "")], now_ns)


def put_intake(connection: sa.Connection, intake: Intake, now_ns: int, day: int) -> None:
    """Write one commit's changes."""
    schema.put(connection, schema.inputs, list(_offset_rows(intake.offsets)))
    pins = [
        {
            "agent_id": agent,
            "public_key": pin.public_key,
            "how": pin.how,
            "pinned_ns": now_ns,
            "token": "",
            "host": "",
        }
        for agent, pin in intake.pins.items()
    ]
    if pins:  # a key that was enrolled meanwhile stays
        statement = schema.insert(connection.dialect.name, schema.identities)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["agent_id"]), pins)
    put_enrolled(connection, intake.enrolled, now_ns)
    rows = [
        {
            "agent_id": agent,
            "run_id": run,
            "lane": lane,
            "low_water": said.low_water,
            "dropped": said.dropped.text(),
            "missing": said.missing.text(),
            "told": said.told,
            "day": day,
        }
        for (agent, run, lane), said in intake.said.items()
    ]
    schema.put(connection, schema.gaps, rows)
    schema.put(connection, schema.dead, list(_dead_rows(intake.dead, day)))
    put_covered(connection, intake.covered, day)


def _offset_rows(offsets: Mapping[Partition, Offset]) -> Iterable[dict[str, Any]]:
    for (topic, number), offset in offsets.items():
        yield {
            "topic": topic,
            "partition": number,
            "topic_id": offset.topic_id,
            "next_offset": offset.next_offset,
        }


def _dead_rows(dead: Mapping[DeadKey, Dead], day: int) -> Iterable[dict[str, Any]]:
    for (agent, run, lane, key, reason), one in dead.items():
        yield {
            "agent_id": agent,
            "run_id": run,
            "lane": lane,
            "public_key": key,
            "reason": reason,
            "sequences": one.sequences.text(),
            "unread": one.unread.text(),
            "day": day,
            **one.amounts.as_dict(),
        }
