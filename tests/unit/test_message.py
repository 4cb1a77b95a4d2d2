"""Messages: what was sealed comes back as it was, and nothing else passes for it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.errors import DecodeError, StateError
from agent.core.flow import BatchHeader
from agent.core.message import Message, seal
from agent.sending.identity import Identity, identity, verifies
from tests.tools.rows import batch_of

KEY = Identity(Ed25519PrivateKey.generate())
HEADER = BatchHeader(
    agent_id="db-1.example",
    run_id="0123456789abcdef" * 2,
    lane=1,
    sequence=7,
    host="db-1",
    collector="ebpf",
    clock_offset_ns=-5,
    versions={"country": "2026-11 sha256:ab"},
    account=Accounts().read(),
)


def sealed(**rest: object) -> Message:
    """One message of two rows."""
    batch = batch_of([{"process": "postgres", "octets_out": 10}, {}], HEADER)
    return seal(batch, KEY.sign, low_water=5, dropped=[(1, 2)], **rest)  # type: ignore[arg-type]


def changed(**fields: object) -> Message:
    """A message whose header says something else, signed all the same."""
    message = sealed()
    header = json.dumps({**json.loads(message.header), **fields}).encode()
    return Message(header, KEY.sign(header), message.value)


def test_a_message_comes_back_as_it_was_sealed() -> None:
    """Rows, header, water mark and dropped ranges survive packing, and the signature holds."""
    message = Message.unpack(sealed().pack())
    header = message.read_header()
    batch = message.batch(header)
    assert list(batch.rows()) == list(batch_of([{"process": "postgres", "octets_out": 10}, {}]).rows())
    assert (header.batch_id, header.low_water, header.dropped) == (HEADER.batch_id, 5, ((1, 2),))
    assert (batch.header.host, batch.header.versions, batch.header.clock_offset_ns) == (
        "db-1",
        HEADER.versions,
        -5,
    )
    assert header.account == Accounts().read().as_dict()
    assert verifies(KEY.public, message.signature, message.signed())


def test_equal_batches_make_equal_messages() -> None:
    """Sealing is deterministic, so a batch sent twice has one digest."""
    assert sealed() == sealed()


@given(st.data())
def test_one_changed_octet_is_noticed(data: st.DataObject) -> None:
    """Whatever octet is changed on the way: it does not unpack, does not read, or its signature does not hold."""
    packed = bytearray(sealed().pack())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        message = Message.unpack(bytes(packed))
        message.read_header()
    except DecodeError:
        return
    if message == sealed():
        return  # an octet of the compression that says nothing
    assert not verifies(KEY.public, message.signature, message.signed())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_words(noise: bytes) -> None:
    """Bytes that are no message raise DecodeError and nothing else."""
    with pytest.raises(DecodeError):
        Message.unpack(noise).read_header()
    with pytest.raises(DecodeError):
        Message(noise, b"", noise).read_header()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"agent_id": "../../etc/passwd"}, "bad batch header: agent_id: String should match pattern"),
        ({"agent_id": "<script>"}, "bad batch header: agent_id: String should match pattern"),
        ({"run_id": "1"}, "bad batch header: run_id"),
        ({"lane": 2}, "bad batch header: lane"),
        ({"sequence": -1}, "bad batch header: sequence"),
        ({"sequence": "7"}, "bad batch header: sequence"),
        ({"digest": "0" * 64}, "the message is not the one that its header names"),
        ({"schema_version": 0}, "bad batch header: schema_version"),
        ({"versions": {"a": 1}}, "bad batch header: versions.a"),
    ],
)
def test_a_header_that_lies_or_is_ill_formed_is_refused_by_field(
    fields: dict[str, object], said: str
) -> None:
    """What a header may say is checked before anything is done with it."""
    with pytest.raises(DecodeError) as caught:
        changed(**fields).read_header()
    assert str(caught.value).startswith(said)


def test_a_wrong_number_of_rows_is_refused() -> None:
    """The header's count of rows is that of the value."""
    message = changed(rows=3)
    with pytest.raises(DecodeError, match="has 2 rows, its header says 3"):
        message.batch(message.read_header())


def test_fields_of_a_newer_agent_are_left_out() -> None:
    """A header with more in it than we know is read."""
    assert changed(mood="good").read_header().sequence == 7


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """A second start finds the same key, in a file of mode 0600."""
    first = identity(tmp_path / "state")
    assert identity(tmp_path / "state").public == first.public
    assert stat.S_IMODE((tmp_path / "state" / "agent.key").stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["agent.key"]


def test_a_broken_key_file_is_one_sentence(tmp_path: Path) -> None:
    """A key that cannot be read stops the start; none is made in its place."""
    (tmp_path / "agent.key").write_text("x")
    with pytest.raises(
        StateError, match=r"holds no Ed25519 key; restore it, or move it away and enrol this agent anew"
    ):
        identity(tmp_path)


def test_another_key_does_not_verify(tmp_path: Path) -> None:
    """A signature is worth nothing under another key, nor under bytes that are no key."""
    other: Identity = identity(tmp_path)
    message = sealed()
    assert not verifies(other.public, message.signature, message.signed())
    assert not verifies(b"short", message.signature, message.signed())
