"""What may come in: messages of agents whose key is known, whole, signed, and such as an agent makes.

No I/O. Whatever the bytes, the answer is a batch or a reason; nothing here raises, and nothing an agent writes can make a
later commit fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.core.accounts import Amounts
from agent.core.errors import DecodeError
from agent.core.flow import COLUMNS, SCHEMA_VERSION, FlowBatch, Kind
from agent.core.heartbeat import Beat, Signed
from agent.core.message import HEADER_KEY, LARGEST_VALUE, SIGNATURE_KEY, Header, Message, Reason, batches
from agent.core.wire import TextError
from agent.store.inputs import Pin

Identities = Literal["pin_first", "enrolled"]
LONGEST_TEXT: Final = 4096
"""Octets of one text, such as a path."""
LONGEST_KEY_TEXT: Final = 200
"""Of a text that becomes part of a key of the ledger: an index of PostgreSQL takes 2,704 octets in all."""
MOST_OCTETS: Final = 1 << 48
"""Of all rows of one batch: 256 TiB; no host sends that in half a minute."""
_KEY_TEXTS: Final = frozenset(
    ("process", "vantage", "initiator", "remote_as_org", "remote_provider", "remote_owner", "remote_country")
)
_AMOUNTS: Final = ("octets_out", "octets_in", "content_octets_out", "flows", "packets_out", "packets_in")
_LONGEST: Final = {
    c.name: LONGEST_KEY_TEXT if c.name in _KEY_TEXTS else LONGEST_TEXT for c in COLUMNS if c.kind is Kind.TEXT
}
_MOST_KEYS: Final = 100_000


class _Named(Protocol):
    @property
    def agent_id(self) -> str: ...
    @property
    def key(self) -> str: ...


class _Signed(Protocol):
    @property
    def signature(self) -> bytes: ...
    def signed(self) -> bytes:
        """What the signature is made over."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message that may be decided."""

    header: Header
    batch: FlowBatch
    digest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that may not."""

    reason: Reason
    detail: str
    agent_id: str = ""
    """Whom it names, where that is an id at all. Nobody has shown that it is from there."""
    header: Header | None = None
    key: bytes = b""
    """The public key that did sign it, which may be anybody's; empty: none that is known."""
    amounts: Amounts | None = None
    """Of its rows; None where nobody could read them."""


@dataclass
class Checker:
    """Checks messages against the keys that are pinned. Not thread-safe."""

    pins: Mapping[str, Pin]
    identities: Identities = "pin_first"
    ended: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    """By agent: keys that were revoked or replaced."""
    fresh: dict[str, Pin] = field(default_factory=dict)
    """Keys that were pinned and are not yet committed; whoever commits them calls :meth:`kept`."""
    _keys: dict[bytes, Ed25519PublicKey] = field(default_factory=dict)

    def check(self, headers: Mapping[str, bytes], value: bytes) -> Sealed | Refused:
        """The batch of a message, or why there is none."""
        return self.check_all([(headers, value)])[0]

    def check_all(self, records: Sequence[tuple[Mapping[str, bytes], bytes]]) -> list[Sealed | Refused]:
        """The batch of each message, in the order in which they came, or why there is none: the headers of each and its
        value. Rows are decoded together once every signature is known to be good.
        """
        named = [self._named(headers, value) for headers, value in records]
        signed = [one for one in named if not isinstance(one, Refused)]
        rows = iter(batches(signed, _LONGEST))
        return [one if isinstance(one, Refused) else self._read(one[1], next(rows)) for one in named]

    def _named(self, headers: Mapping[str, bytes], value: bytes) -> tuple[Message, Header] | Refused:
        """The message and what it says of itself, whole and rightly signed."""
        if HEADER_KEY not in headers or SIGNATURE_KEY not in headers:
            return Refused("foreign", f"no header {HEADER_KEY} or {SIGNATURE_KEY}: not made by sekisho")
        if len(value) > LARGEST_VALUE:
            return Refused("oversized", f"{len(value)} octets; at most {LARGEST_VALUE} are read")
        message = Message(headers[HEADER_KEY], headers[SIGNATURE_KEY], value)
        try:
            header = message.read_header()
        except DecodeError as error:
            return Refused("bad_header", str(error))
        refused = self._unsigned(header, message)
        return (message, header) if refused is None else self._attributed(refused, header, message)

    def _read(self, header: Header, rows: FlowBatch | DecodeError | MemoryError) -> Sealed | Refused:
        """The message with its rows, or why it may not be decided."""
        key = self.key_of(header.agent_id)
        if isinstance(rows, TextError):
            return Refused("impossible", str(rows), header.agent_id, header, key)
        if not isinstance(rows, FlowBatch):
            newer = header.schema_version > SCHEMA_VERSION
            said = (
                f"schema {header.schema_version}, this one reads {SCHEMA_VERSION}: {rows}"
                if newer
                else str(rows)
            )
            reason: Reason = "newer_schema" if newer else "undecodable"
            return Refused(reason, said, header.agent_id, header, key)
        if (said := _impossible(header, rows)) != "":
            return Refused("impossible", said, header.agent_id, header, key)
        return Sealed(header, rows, bytes.fromhex(header.digest))

    def check_beat(self, headers: Mapping[str, bytes], value: bytes) -> Beat | Refused:
        """The heartbeat in a record, or why there is none."""
        if SIGNATURE_KEY not in headers:
            return Refused("foreign", f"no header {SIGNATURE_KEY}: not made by sekisho")
        try:
            beat = Beat.read(value)
        except DecodeError as error:
            return Refused("bad_header", str(error))
        return self._unsigned(beat, Signed(value, headers[SIGNATURE_KEY])) or beat

    def kept(self, pins: Mapping[str, Pin]) -> None:
        """These keys are committed."""
        self.pins = {**self.pins, **pins}
        for agent in pins:
            self.fresh.pop(agent, None)

    def changed(self, pins: Mapping[str, Pin], ended: Mapping[str, frozenset[bytes]]) -> None:
        """Somebody enrolled or ended these."""
        self.kept(pins)
        self.ended = {**self.ended, **{a: self.ended.get(a, frozenset()) | keys for a, keys in ended.items()}}

    def _unsigned(self, header: _Named, message: _Signed) -> Refused | None:
        """Why the signature does not count; None where it does."""
        agent = header.agent_id
        pin = self.pins.get(agent) or self.fresh.get(agent)
        own = bytes.fromhex(header.key)
        if pin is None and (self.identities == "enrolled" or not own):
            return Refused("unknown_key", f"no key is enrolled for agent {agent}: sekisho agent enrol", agent)
        key = pin.public_key if pin is not None else own
        named = own or key
        if named in self.ended.get(agent, ()) and self._verifies(named, message):
            return Refused("identity_ended", f"agent {agent} is signed with a key that was ended", agent)
        if pin is not None and pin.how == "revoked":
            return Refused("unknown_key", f"agent {agent} was revoked: enrol it anew", agent)
        if not self._verifies(key, message):
            if pin is not None and own and own != pin.public_key and self._verifies(own, message):
                return Refused(
                    "identity_conflict", f"agent {agent} is signed with another key than its own", agent
                )
            return Refused("bad_signature", f"the signature is not that of agent {agent}", agent)
        if pin is None:
            self.fresh[agent] = Pin(own, "first")
        return None

    def key_of(self, agent: str) -> bytes:
        """The key that signs for an agent; empty: none does yet."""
        pin = self.pins.get(agent) or self.fresh.get(agent)
        return pin.public_key if pin is not None else b""

    def _attributed(self, refused: Refused, header: Header, message: Message) -> Refused:
        """With the key that did sign it and its amounts, where it names that key and may yet prove to be the agent's."""
        key = bytes.fromhex(header.key) or self.key_of(header.agent_id)
        if refused.reason not in ("unknown_key", "identity_ended") or not self._verifies(key, message):
            return refused
        try:
            batch = message.batch(header, _LONGEST)
            amounts = None if _impossible(header, batch) else batch.amounts()
        except (TextError, DecodeError, MemoryError):
            amounts = None
        return replace(refused, header=header, key=key, amounts=amounts)

    def _verifies(self, public: bytes, message: _Signed) -> bool:
        try:
            key = self._keys.get(public)
            if key is None:
                if len(self._keys) >= _MOST_KEYS:
                    self._keys.clear()
                key = self._keys[public] = Ed25519PublicKey.from_public_bytes(public)
            key.verify(message.signature, message.signed())
        except (InvalidSignature, ValueError):
            return False
        return True


def unfit(batch: FlowBatch) -> str:
    """Which text of a batch no state could take; empty if there is none. For rows that became a store's only here."""
    for name, most in _LONGEST.items():
        if any(len(text.encode()) > most or "\0" in text for text in batch.text(name).values):
            return f"{name} holds a text of more than {most} octets, or with a zero in it"
    return ""


def _impossible(header: Header, batch: FlowBatch) -> str:
    """What no agent writes but a state could choke on; empty where there is nothing."""
    if header.rows == 0:
        return "a batch without rows"
    for name in _AMOUNTS:
        if batch.total(name) > MOST_OCTETS:
            return f"{name} of more than {MOST_OCTETS} in one batch"
    return ""
