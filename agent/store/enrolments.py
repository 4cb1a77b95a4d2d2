"""Who may enrol, who is enrolled, and what people did about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from agent.core.errors import StateError
from agent.core.said import said
from agent.store import schema
from agent.store.database import Database

Kind = Literal["token_made", "token_revoked", "agent_revoked"]
_TOKEN: Final = (
    "id", "public_key", "agent_id", "note", "made_by", "made_ns", "expires_ns", "uses", "used", "revoked_ns",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A right to enrol, as the store knows it."""

    id: str
    public_key: bytes
    """Of the token; nothing enrols with it."""
    agent_id: str
    """The one agent that it is for, whose key it may replace; empty: any that has none yet."""
    note: str
    made_by: str
    made_ns: int
    expires_ns: int
    uses: int
    used: int = 0
    revoked_ns: int = 0
    """0: it was not."""


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """An agent and its key."""

    agent_id: str
    public_key: bytes
    how: Literal["first", "enrolled", "revoked"]
    pinned_ns: int
    token: str
    host: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One agent whose key a commit pins. Written with the rest of the commit or not at all."""

    agent_id: str
    public_key: bytes
    token: str
    host: str
    ends: bytes = b""
    """The key that it replaces."""


@dataclass(frozen=True, slots=True)
class EnrolmentAction:
    """What a person did."""

    id: int
    time_ns: int
    who: str
    kind: Kind
    subject: str
    note: str


class Enrolments:
    """Questions to these tables, and people's actions on them. Blocks on the disk; raises :class:`StateError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tokens(self) -> list[TokenRow]:
        """Every token, newest first."""
        t = schema.tokens.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(*(t[n] for n in _TOKEN)).order_by(t.made_ns.desc(), t.id)
            ).all()
        return [_token(row) for row in rows]

    def token(self, token_id: str) -> TokenRow | None:
        """One token."""
        t = schema.tokens.c
        with self._database.read() as connection:
            row = connection.execute(sa.select(*(t[n] for n in _TOKEN)).where(t.id == token_id)).one_or_none()
        return _token(row) if row else None

    def identities(self, agent_id: str | None = None) -> list[IdentityRow]:
        """Every pinned identity, or that of one agent, by agent."""
        t = schema.identities.c
        asked = sa.select(t.agent_id, t.public_key, t.how, t.pinned_ns, t.token, t.host).order_by(t.agent_id)
        if agent_id is not None:
            asked = asked.where(t.agent_id == agent_id)
        with self._database.read() as connection:
            return [IdentityRow(a, bytes(k), *rest) for a, k, *rest in connection.execute(asked)]

    def ended_keys(self) -> dict[str, frozenset[bytes]]:
        """Keys that may no longer sign, by agent."""
        t, found = schema.ended_keys.c, dict[str, frozenset[bytes]]()
        with self._database.read() as connection:
            for agent, key in connection.execute(sa.select(t.agent_id, t.public_key)):
                found[agent] = found.get(agent, frozenset()) | {bytes(key)}
        return found

    def actions_after(self, number: int) -> list[EnrolmentAction]:
        """What people did after action ``number``."""
        t = schema.enrolment_actions.c
        asked = (
            sa.select(t.id, t.time_ns, t.who, t.kind, t.subject, t.note).where(t.id > number).order_by(t.id)
        )
        with self._database.read() as connection:
            return [EnrolmentAction(*row) for row in connection.execute(asked)]

    def last_action(self) -> int:
        """Number of the newest action; 0 if there is none."""
        with self._database.read() as connection:
            return int(
                connection.execute(sa.select(sa.func.max(schema.enrolment_actions.c.id))).scalar() or 0
            )

    # what people do

    def add_token(self, token: TokenRow) -> None:
        """Keep a new token."""
        with self._database.write() as connection:
            connection.execute(schema.tokens.insert(), {name: getattr(token, name) for name in _TOKEN})
            _act(connection, token.made_ns, token.made_by, "token_made", token.id, token.note)

    def revoke_token(self, token_id: str, who: str, note: str, now_ns: int) -> None:
        """End a token; agents that it enrolled stay enrolled."""
        t = schema.tokens
        with self._database.write() as connection:
            change = sa.update(t).where(t.c.id == token_id, t.c.revoked_ns == 0).values(revoked_ns=now_ns)
            if connection.execute(change).rowcount != 1:
                raise StateError(
                    said("there is no token {token} in force: sekisho enrolment list", token=token_id)
                )
            _act(connection, now_ns, who, "token_revoked", token_id, note)

    def revoke_agent(self, agent_id: str, who: str, note: str, now_ns: int) -> None:
        """End an agent's key: nothing that it signed counts from the detector's next look on."""
        t = schema.identities
        with self._database.write() as connection:
            mine = sa.and_(t.c.agent_id == agent_id, t.c.how != "revoked")
            key = connection.execute(sa.select(t.c.public_key).where(mine)).scalar_one_or_none()
            if key is None:
                raise StateError(
                    said(
                        "there is no agent {agent} whose key is in force: sekisho enrolment list",
                        agent=agent_id,
                    )
                )
            connection.execute(sa.update(t).where(mine).values(how="revoked", pinned_ns=now_ns))
            row = {"agent_id": agent_id, "public_key": bytes(key), "ended_ns": now_ns}
            schema.put(connection, schema.ended_keys, [row])
            _act(connection, now_ns, who, "agent_revoked", agent_id, note)


def put_enrolled(connection: sa.Connection, enrolled: Sequence[Enrolled], now_ns: int) -> None:
    """Write what one commit enrols. A key that it replaces never signs again, and each use of a token is counted."""
    for one in enrolled:
        row = {
            "agent_id": one.agent_id,
            "public_key": one.public_key,
            "how": "enrolled",
            "pinned_ns": now_ns,
            "token": one.token,
            "host": one.host,
        }
        schema.put(connection, schema.identities, [row])
        if one.ends:
            ended = {"agent_id": one.agent_id, "public_key": one.ends, "ended_ns": now_ns}
            schema.put(connection, schema.ended_keys, [ended])
        t = schema.tokens
        connection.execute(sa.update(t).where(t.c.id == one.token).values(used=t.c.used + 1))


def _token(row: Any) -> TokenRow:
    token_id, key, *rest = row
    return TokenRow(token_id, bytes(key), *rest)


def _act(connection: sa.Connection, now_ns: int, who: str, kind: Kind, subject: str, note: str) -> None:
    row = {"time_ns": now_ns, "who": who, "kind": kind, "subject": subject, "note": note}
    connection.execute(schema.enrolment_actions.insert(), row)
