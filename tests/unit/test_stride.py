"""Record offsets of a classic capture, found from many places at once, are those that following one by one gives."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.captures import stride

MICRO = 1_000_000
SECOND = 1_760_000_000


def chain(octets: bytes, order: str) -> tuple[list[int], int]:
    """(records, where the next would begin) one by one, before the first of more than 65,535 octets."""
    at, found = 0, []
    while at + 16 <= len(octets):
        size = struct.unpack_from(order + "I", octets, at + 8)[0]
        if size > 0xFFFF:
            break
        found.append(at)
        at += 16 + size
    return found, at


def record(order: str, content: bytes, second: int = SECOND, size: int | None = None) -> bytes:
    return struct.pack(order + "IIII", second, 7, len(content) if size is None else size, 1500) + content


def ask(octets: bytes, order: str) -> tuple[list[int], int, bool]:
    data = np.frombuffer(octets + bytes(128), np.uint8)
    found, after, paid = stride.records(data, len(octets), order, MICRO)
    return found.tolist(), after, paid


@pytest.mark.parametrize("order", ["<", ">"])
def test_records_of_headers_alone_are_all_found(order: str) -> None:
    """Ten thousand short records are found without a single one followed on its own, and guessing pays."""
    random = np.random.default_rng(3)
    sizes = random.integers(54, 97, 10_000).tolist()
    octets = b"".join(record(order, bytes(random.integers(1, 255, size, np.uint8))) for size in sizes)
    assert ask(octets, order) == (*chain(octets, order), True)


def test_a_payload_of_record_headers_only_costs_time() -> None:
    """Where payloads are full of record headers that lead astray, what is given is a prefix of the true chain."""
    octets = record("<", b"z" * 44 + record("<", b"zz") * 2 + b"z" * 7) * 3000
    found, after, paid = ask(octets, "<")
    true, _ = chain(octets, "<")
    assert not paid
    assert found == true[: len(found)]
    assert after == true[len(found)]


def test_the_record_that_is_too_large_to_guess_is_where_it_ends() -> None:
    """A record of 65,536 octets is not taken and not passed: following goes on there."""
    small = record("<", b"x" * 60)
    octets = small * 400 + record("<", b"y" * 65_536) + small * 400
    assert ask(octets, "<")[:2] == ([76 * i for i in range(400)], 76 * 400)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_large_record_full_of_records_is_not_followed_inside(order: str) -> None:
    """A record too large to guess ends the answer also where the lower half of its size leads to a chain of its own
    within it, and that chain leads back to the true one."""
    small = record(order, b"x" * 48)
    large = record(order, small * (65_536 // 64 + 6) + b"x" * 48)
    assert len(large) % 64 == 0
    octets = small * 400 + large + small * 400
    assert ask(octets, order)[:2] == ([64 * i for i in range(400)], 64 * 400)


@given(
    st.lists(
        st.tuples(st.sampled_from((0, 1, 20, 60, 96, 700, 1500, 5000)), st.sampled_from((0, 0, 0, 1 << 30))),
        min_size=1,
        max_size=400,
    ),
    st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=16)), max_size=20),
    st.sampled_from("<>"),
)
def test_whatever_is_given_lies_on_the_true_chain(
    shapes: list[tuple[int, int]], damage: list[tuple[int, bytes]], order: str
) -> None:
    """Of mixed and damaged records every offset given is on the chain from the first, none is left out between."""
    octets = bytearray(b"".join(record(order, b"\0" * size, SECOND + off) for size, off in shapes))
    for where, what in damage:
        at = where % len(octets)
        octets[at : at + len(what)] = what[: len(octets) - at]
    true, end = chain(bytes(octets), order)
    found, after, _ = ask(bytes(octets), order)
    assert found == true[: len(found)]
    assert after == [*true, end][len(found)]
