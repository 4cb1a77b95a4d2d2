"""How an agent asks the detector to know its key, and what it is answered; both travel through Kafka.

A token is 256 random bits that the detector's side gives to whoever sets a host up. An Ed25519 key is derived from it:
the detector keeps the public half alone, and the agent proves the token by a signature. So neither the topic nor the
store holds anything that enrols another host. The answer is authenticated (HMAC, RFC 2104) by the token's public
half, which nobody but holder and store has. No I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.core.errors import DecodeError
from agent.core.message import SIGNATURE_KEY, AgentId
from agent.core.said import said

PROOF_KEY: Final = "sekisho-token"
"""Kafka header of a request: the signature that proves the token."""
ANSWER_KEY: Final = "sekisho-answer"
"""Kafka header of an answer: what proves it; empty where the token is not known."""
REQUEST_CONTEXT: Final = b"sekisho.enrolment.v1 request\0"
PROOF_CONTEXT: Final = b"sekisho.enrolment.v1 token\0"
_ANSWER_CONTEXT: Final = b"sekisho.enrolment.v1 answer\0"
_SEED_CONTEXT: Final = b"sekisho enrolment token v1\0"
LARGEST: Final = 8192
"""Octets of a request or an answer."""
_TOKEN: Final = re.compile(r"^sekisho1-([0-9a-f]{12})-([A-Za-z0-9_-]{43})$")
_RAW: Final = serialization.Encoding.Raw

Reason = Literal[
    "", "unknown_token", "wrong_token", "expired", "used_up", "token_revoked", "other_agent", "agent_known",
    "key_ended", "key_of_another", "malformed",
]  # fmt: skip
"""Why a request was refused."""


@dataclass(frozen=True, slots=True)
class Token:
    """A right to enrol. Its text is shown once and kept nowhere."""

    id: str
    """12 hexadecimal digits; no secret."""
    secret: bytes

    @classmethod
    def make(cls) -> Token:
        """A new one."""
        return cls(secrets.token_hex(6), secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> Token:
        """From its text. Raises :class:`DecodeError`, which never repeats what was given."""
        found = _TOKEN.match(text.strip())
        try:
            if found is None:
                raise ValueError
            return cls(found[1], base64.urlsafe_b64decode(found[2] + "="))
        except (ValueError, binascii.Error):
            raise DecodeError(
                said(
                    "this is no enrolment token; expected sekisho1-…, as `sekisho enrolment token` prints it"
                )
            ) from None

    def __repr__(self) -> str:
        return f"Token({self.id})"

    @property
    def text(self) -> str:
        """What is handed to the host."""
        return f"sekisho1-{self.id}-{base64.urlsafe_b64encode(self.secret).decode().rstrip('=')}"

    @property
    def public(self) -> bytes:
        """All that the detector keeps of it, 32 octets: it tells nothing of the secret."""
        return self._key().public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)

    def prove(self, request: bytes) -> bytes:
        """The proof that goes with one request."""
        return self._key().sign(PROOF_CONTEXT + request)

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_SEED_CONTEXT + self.secret).digest())


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    agent_id: AgentId
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    time_ns: Annotated[int, Field(ge=0, le=2**63 - 1)]

    def as_bytes(self) -> bytes:
        """As it travels."""
        return self.model_dump_json().encode()


class Request(_Said):
    """An agent asks to be known."""

    kind: Literal["request"] = "request"
    host: Annotated[str, Field(max_length=255)] = ""
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class Answer(_Said):
    """What the detector did with a request; ``nonce`` is the request's."""

    kind: Literal["answer"] = "answer"
    reason: Reason = ""
    """Empty: the key is pinned."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came, whose agent holds the key that it names."""

    request: Request
    raw: bytes
    proof: bytes

    def proves(self, token_public: bytes) -> bool:
        """Whether whoever asked holds that token."""
        return _verifies(token_public, self.proof, PROOF_CONTEXT + self.raw)


def ask(request: Request, sign: Callable[[bytes], bytes], token: Token) -> tuple[bytes, dict[str, bytes]]:
    """Value and headers of a request's record."""
    raw = request.as_bytes()
    return raw, {SIGNATURE_KEY: sign(REQUEST_CONTEXT + raw), PROOF_KEY: token.prove(raw)}


def is_request(headers: dict[str, bytes]) -> bool:
    """Whether a record of the topic is a request; the topic holds the answers too."""
    return ANSWER_KEY not in headers


def heard(headers: dict[str, bytes], value: bytes) -> Asked:
    """The request of a record. Raises :class:`DecodeError` for whatever else it is."""
    if len(value) > LARGEST or SIGNATURE_KEY not in headers or PROOF_KEY not in headers:
        raise DecodeError("no enrolment request")
    try:
        request = Request.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DecodeError(
            f"bad enrolment request: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    if not _verifies(bytes.fromhex(request.public_key), headers[SIGNATURE_KEY], REQUEST_CONTEXT + value):
        raise DecodeError("the request is not signed by the key that it names")
    return Asked(request, value, headers[PROOF_KEY])


def answer(
    asked: Asked, reason: Reason, now_ns: int, token_public: bytes | None
) -> tuple[bytes, dict[str, bytes]]:
    """Value and headers of an answer's record; ``token_public`` None where nobody knows the token."""
    said = Answer(agent_id=asked.request.agent_id, nonce=asked.request.nonce, time_ns=now_ns, reason=reason)
    raw = said.as_bytes()
    return raw, {ANSWER_KEY: b"" if token_public is None else _mac(token_public, raw)}


def answered(
    headers: dict[str, bytes], value: bytes, request: Request, token: Token
) -> tuple[Answer, bool] | None:
    """The answer to a request and whether it is proven to be the detector's; None for any other record."""
    if ANSWER_KEY not in headers or len(value) > LARGEST:
        return None
    try:
        said = Answer.model_validate_json(value)
    except ValidationError:
        return None
    if (said.agent_id, said.nonce) != (request.agent_id, request.nonce):
        return None
    proven = hmac.compare_digest(headers[ANSWER_KEY], _mac(token.public, value))
    # Only of a token that it does not know can the detector prove nothing; whatever else is unproven is somebody's lie.
    return (said, proven) if proven or said.reason == "unknown_token" else None


def _mac(token_public: bytes, raw: bytes) -> bytes:
    return hmac.new(token_public, _ANSWER_CONTEXT + raw, hashlib.sha256).digest()


def _verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
