"""Host names in DNS answers (RFC 1035) and TLS ClientHellos (RFC 8446, server name: RFC 6066 section 3).

One message at a time, from octets that anybody may have written: whatever is not as expected gives nothing. Only names
of letters, digits and hyphens come out, in lower case; an international name stays in its ASCII form (``xn--``).
Libraries read whole messages; of a packet's first 2 KiB only the name is wanted, and nothing else may be kept.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from agent.core.address import V4_PREFIX

MOST_ADDRESSES: Final = 64
"""Records of one answer that are read."""
_A, _CNAME, _AAAA, _IN = 1, 5, 28, 1
_HEAD: Final = struct.Struct("!HHHH")
_RECORD: Final = struct.Struct("!HHIH")
_MOST_LABELS: Final = 127
_MOST_TTL_S: Final = 86_400
_LABEL: Final = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST: Final = 253

Labels = tuple[bytes, ...]


class _MalformedError(ValueError):
    """The octets are not what they should be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a DNS answer says: these addresses are that host."""

    name: str
    """The name that was asked for."""
    addresses: tuple[tuple[int, int], ...]
    """(128-bit number, IPv4 v4-mapped; seconds for which the answer holds, at most a day)."""


def answer(message: bytes) -> Answer | None:
    """The addresses of a DNS answer over UDP, following its CNAMEs; None where it holds none or is malformed."""
    try:
        return _answer(message)
    except (_MalformedError, struct.error, IndexError):
        return None


def server_name(payload: bytes) -> str | None:
    """The server name of a ClientHello that begins a TCP payload; None where there is none, or it was cut off."""
    try:
        return _server_name(payload)
    except (_MalformedError, struct.error, IndexError):
        return None


def _answer(message: bytes) -> Answer | None:
    _number, flags, questions, count = _HEAD.unpack_from(message)
    # An answer (QR) to a query (opcode 0) without error, to one question.
    if flags & 0xF80F != 0x8000 or questions != 1:
        return None
    asked, at = _labels(message, 12)
    name = host_name(asked)
    if name is None or struct.unpack_from("!HH", message, at)[1] != _IN:
        return None
    at += 4
    until = {asked: _MOST_TTL_S}
    found: list[tuple[int, int]] = []
    for _ in range(min(count, MOST_ADDRESSES)):
        if at >= len(message):
            break  # cut off: what was whole counts
        owner, at = _labels(message, at)
        kind, kind_class, ttl, size = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        data = message[at : at + size]
        if len(data) < size:
            break
        if kind_class == _IN and owner in until:
            holds = min(ttl if ttl < 1 << 31 else 0, until[owner])
            if kind == _CNAME:
                until.setdefault(_labels(message, at)[0], holds)
            elif (kind, size) in ((_A, 4), (_AAAA, 16)):
                found.append((int.from_bytes(data) | (V4_PREFIX if kind == _A else 0), holds))
        at += size
    return Answer(name, tuple(found)) if found else None


def _labels(message: bytes, at: int) -> tuple[Labels, int]:
    """A name in lower case, and where what follows it begins. A pointer must point back, so that it ends."""
    labels: list[bytes] = []
    end, limit, total = -1, at, 0
    while True:
        size = message[at]
        if size >= 0xC0:
            target = (size & 0x3F) << 8 | message[at + 1]
            end = at + 2 if end < 0 else end
            if target >= limit:
                raise _MalformedError
            at = limit = target
        elif size >= 0x40:
            raise _MalformedError
        elif size == 0:
            return tuple(labels), at + 1 if end < 0 else end
        else:
            label = message[at + 1 : at + 1 + size]
            total += size + 1
            if len(label) < size or total > 255 or len(labels) >= _MOST_LABELS:
                raise _MalformedError
            labels.append(label.lower())
            at += 1 + size


def host_name(labels: Labels) -> str | None:
    """The labels as a host name (RFC 1123 section 2.1); None if any is none, or the last is a number."""
    if len(labels) < 2 or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        return None
    name = b".".join(labels).decode("ascii")
    return name if len(name) <= _LONGEST else None


def _server_name(payload: bytes) -> str | None:
    # Record: handshake (22), version 3.x, length; handshake: ClientHello (1), length of 3 octets, version, random.
    if payload[0] != 22 or payload[1] != 3 or payload[5] != 1:
        return None
    at = 43
    at += 1 + payload[at]  # session id
    at += 2 + _u16(payload, at)  # cipher suites
    at += 1 + payload[at]  # compression methods
    end = at + 2 + _u16(payload, at)
    at += 2
    while at + 4 <= end:
        kind, size = _u16(payload, at), _u16(payload, at + 2)
        at += 4
        if kind == 0:
            length = _u16(payload, at + 3)
            if payload[at + 2] != 0 or length + 5 > size or at + 5 + length > len(payload):
                return None
            return host_name(tuple(payload[at + 5 : at + 5 + length].lower().split(b".")))
        at += size
    return None


def _u16(data: bytes, at: int) -> int:
    return int(data[at]) << 8 | data[at + 1]
