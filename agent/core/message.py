"""A sealed batch as it travels and lies in the spool: value, header, signature; never changed again.

The value is one Arrow IPC stream (:mod:`agent.core.wire`). The header is JSON in a fixed form and names the value's
SHA-256; the agent's Ed25519 key (RFC 8032) signs it. So a message is known for good by its id, (agent, run, lane,
sequence), and its digest: the same id with the same digest is a duplicate, with another digest a conflict.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.core.errors import DecodeError
from agent.core.flow import SCHEMA_VERSION, BatchHeader, FlowBatch

HEADER_KEY: Final = "sekisho"
SIGNATURE_KEY: Final = "sekisho-signature"
"""Names of the two Kafka headers."""
CONTEXT: Final = b"sekisho.flows.v1\0"
"""Stands before the header where it is signed, so that no other signature of the key can pass for this one."""
Reason = Literal[
    "foreign", "oversized", "bad_header", "undecodable", "newer_schema", "bad_signature", "unknown_key",
    "identity_ended", "identity_conflict", "batch_conflict", "impossible",
]  # fmt: skip
"""Why a message is dead. ``identity_conflict``: signed with another key than the agent's; ``identity_ended``: with one
that was revoked or replaced; ``batch_conflict``: rightly signed, but its batch id had other bytes."""
LARGEST_VALUE: Final = 16 * 2**20
"""Octets of a value; a batch of 1,000 rows has about 0.2 MiB."""
_LARGEST_HEADER: Final = 64 * 2**10
_PACKED: Final = struct.Struct("<III")

AgentId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
"""Id of an agent: no path, no markup, nothing that a screen or a file name could take for more than a name."""
_Sequence = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Name = Annotated[str, Field(max_length=200)]
MOST_ALERTED: Final = 16


class Alerted(BaseModel):
    """A finding that the host told people of by itself. The id is :func:`agent.core.finding.finding_id` of the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    tenant: _Name
    rule: _Name
    store: _Name
    entity: _Name
    first_bucket_ns: _Sequence
    told_ns: _Sequence


class Header(BaseModel):
    """What a message says of itself. Fields that a newer agent adds are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)

    schema_version: Annotated[int, Field(ge=1)]
    agent_id: AgentId
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    lane: Annotated[int, Field(ge=0, le=1)]
    sequence: _Sequence
    low_water: _Sequence
    """Every batch of this run and lane below it was acknowledged or stands in ``dropped``, when this one was sealed."""
    dropped: tuple[tuple[_Sequence, _Sequence], ...] = ()
    """Ranges of sequences, first and last, that the agent let go for want of room."""
    rows: Annotated[int, Field(ge=0)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the value."""
    key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The agent's public key in hexadecimal, so that a detector that never heard of it can pin it."""
    host: Annotated[str, Field(max_length=255)] = ""
    collector: Annotated[str, Field(max_length=64)] = ""
    clock_offset_ns: int | None = None
    versions: dict[str, str] = {}
    alerted: Annotated[tuple[Alerted, ...], Field(max_length=MOST_ALERTED)] = ()
    """Of which findings the host told people by itself, the newest."""
    account: dict[str, Any] | None = None
    """The run's cumulative account at sealing, as :meth:`agent.core.accounts.Account.as_dict` gives it."""

    @property
    def batch_id(self) -> tuple[str, str, int, int]:
        """(agent id, run id, lane, sequence)."""
        return (self.agent_id, self.run_id, self.lane, self.sequence)


@dataclass(frozen=True, slots=True)
class Message:
    """A sealed, signed batch."""

    header: bytes
    signature: bytes
    value: bytes

    def pack(self) -> bytes:
        """All of it as one byte string, the value compressed; for the spool."""
        value = zstandard.ZstdCompressor(level=1).compress(self.value)
        sizes = _PACKED.pack(len(self.header), len(self.signature), len(self.value))
        return b"".join((sizes, self.header, self.signature, value))

    @classmethod
    def unpack(cls, packed: bytes) -> Message:
        """The inverse of :meth:`pack`. Raises :class:`DecodeError`."""
        try:
            header, signature, value = _PACKED.unpack_from(packed)
            at = _PACKED.size + header
            if header > _LARGEST_HEADER or value > LARGEST_VALUE or at + signature > len(packed):
                raise DecodeError("not a packed message")
            body = zstandard.ZstdDecompressor().decompress(packed[at + signature :], max_output_size=value)
        except (struct.error, zstandard.ZstdError) as error:
            raise DecodeError(f"not a packed message: {error}") from error
        return cls(packed[_PACKED.size : at], packed[at : at + signature], body)

    def read_header(self) -> Header:
        """The header, checked for form, and that the value is the one it names. Raises :class:`DecodeError`."""
        if len(self.header) > _LARGEST_HEADER:
            raise DecodeError(f"the header has {len(self.header)} octets, at most {_LARGEST_HEADER} are read")
        if len(self.value) > LARGEST_VALUE:
            raise DecodeError(f"the message has {len(self.value)} octets, at most {LARGEST_VALUE} are read")
        try:
            header = Header.model_validate_json(self.header)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "header"
            raise DecodeError(f"bad batch header: {field}: {first['msg']}") from error
        if hashlib.sha256(self.value).hexdigest() != header.digest:
            raise DecodeError("the message is not the one that its header names (SHA-256 differs)")
        return header

    def signed(self) -> bytes:
        """What the signature is made over."""
        return CONTEXT + self.header

    def batch(self, header: Header, longest: Mapping[str, int] | None = None) -> FlowBatch:
        """The rows, under the header that :meth:`read_header` gave. Raises :class:`DecodeError`; ``longest`` as
        :func:`agent.core.wire.decode` has it.
        """
        from agent.core import wire  # Arrow, which a run without Kafka does not load

        return _under(header, wire.decode(self.value, longest))


def batches(
    messages: Sequence[tuple[Message, Header]], longest: Mapping[str, int] | None = None
) -> list[FlowBatch | DecodeError | MemoryError]:
    """What :meth:`Message.batch` gives or raises for each, sooner than one by one."""
    from agent.core.together import decode_all

    found = decode_all([message.value for message, _ in messages], longest)
    made: list[FlowBatch | DecodeError | MemoryError] = []
    for (_, header), rows in zip(messages, found, strict=True):
        try:
            made.append(_under(header, rows) if isinstance(rows, FlowBatch) else rows)
        except DecodeError as error:
            made.append(error)
    return made


def _under(header: Header, batch: FlowBatch) -> FlowBatch:
    """The rows of a message under its header. Raises :class:`DecodeError` where that tells another number of rows."""
    if len(batch) != header.rows:
        raise DecodeError(f"the message has {len(batch)} rows, its header says {header.rows}")
    return batch.under(
        BatchHeader(
            agent_id=header.agent_id,
            run_id=header.run_id,
            lane=header.lane,
            sequence=header.sequence,
            host=header.host,
            collector=header.collector,
            clock_offset_ns=header.clock_offset_ns,
            versions=header.versions,
        )
    )


def seal(
    batch: FlowBatch,
    sign: Callable[[bytes], bytes],
    *,
    low_water: int,
    dropped: Sequence[tuple[int, int]] = (),
    key: bytes = b"",
    alerted: Sequence[Alerted] = (),
) -> Message:
    """The message of a sealed batch. ``sign`` makes the agent's signature over given bytes; ``key`` is the public key."""
    from agent.core import wire

    value = wire.encode(batch, header=False)
    about = batch.header
    fields = {
        "schema_version": SCHEMA_VERSION,
        "agent_id": about.agent_id,
        "run_id": about.run_id,
        "lane": about.lane,
        "sequence": about.sequence,
        "low_water": low_water,
        "dropped": [list(span) for span in dropped],
        "rows": len(batch),
        "digest": hashlib.sha256(value).hexdigest(),
        "key": key.hex(),
        "host": about.host,
        "collector": about.collector,
        "clock_offset_ns": about.clock_offset_ns,
        "versions": dict(about.versions),
        "account": about.account.as_dict() if about.account else None,
    }
    if alerted:
        fields["alerted"] = [one.model_dump() for one in alerted]
    header = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return Message(header, sign(CONTEXT + header), value)
