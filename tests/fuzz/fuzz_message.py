"""Any octets as a message's header, signature and value: a batch or one of the declared reasons, never an exception; what
is let in has a known key, the digest and the rows that its header names, and amounts that fit a ledger.

Run by hypothesis in tests/unit/test_fuzz_messages.py; with atheris: ``python -m tests.fuzz.fuzz_message``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.message import CONTEXT, HEADER_KEY, SIGNATURE_KEY, Message, Reason
from agent.receiving.checking import MOST_OCTETS, Checker, Refused, Sealed
from agent.sending.identity import Identity
from agent.store.inputs import Pin
from tests.fuzz.guided import guided
from tests.tools.fleet import FakeAgent, theft

KEY: Final = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AGENT: Final = FakeAgent("db-1", key=KEY)
GOOD: Final = AGENT.message(theft(10**18, 10**6, 3))
PINS: Final = {"db-1": Pin(KEY.public, "enrolled")}


def target(octets: bytes) -> None:
    """The first octet says what the rest stands in for: value (signed anew), header (signed anew), signature, or all."""
    if not octets:
        return
    kind, rest = octets[0] % 4, octets[1:]
    if kind == 0:
        check(resigned(rest))
    elif kind == 1:
        check(Message(rest, KEY.sign(CONTEXT + rest), GOOD.value))
    elif kind == 2:
        check(Message(GOOD.header, rest, GOOD.value))
    else:
        third = len(rest) // 3
        check(Message(rest[:third], rest[third : 2 * third], rest[2 * third :]))


def resigned(value: bytes, **fields: Any) -> Message:
    """A value that its agent really signed, as one does whose host is taken over; ``fields`` of the header changed."""
    about = {**json.loads(GOOD.header), "digest": hashlib.sha256(value).hexdigest(), **fields}
    header = json.dumps(about).encode()
    return Message(header, KEY.sign(CONTEXT + header), value)


def check(message: Message) -> Sealed | Refused:
    """What becomes of it; fails where the invariant does not hold."""
    found = Checker(PINS).check({HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}, message.value)
    if isinstance(found, Refused):
        assert found.reason in get_args(Reason) and found.detail
        return found
    header, batch = found.header, found.batch
    assert header.agent_id == "db-1"
    assert hashlib.sha256(message.value).hexdigest() == header.digest == found.digest.hex()
    assert len(batch) == header.rows > 0
    amounts = batch.amounts()
    for octets in (
        amounts.flows,
        amounts.octets_out,
        amounts.octets_in,
        int(batch["content_octets_out"].sum()),
    ):
        assert -len(batch) <= octets <= MOST_OCTETS
    assert len(list(batch.rows())) == header.rows
    return found


if __name__ == "__main__":
    guided(target)
