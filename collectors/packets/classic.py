"""Classic pcap, without I/O (draft-ietf-opsawg-pcap; limits as libpcap's sf-pcap.c has them)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np

from agent.core.clock import SECOND_NS
from agent.core.errors import DecodeError
from collectors.packets.frames import MOST_CAPTURED, MOST_SNAPSHOT, Frames
from collectors.packets.links import Bytes, Offsets

_SHORT: Final = 200
"""Mean octets of a record up to which its offset is guessed rather than followed: twice as fast there."""
_LEAST_GUESSED: Final = 1 << 14
_STRETCH: Final = 1 << 17


class Classic:
    """Classic pcap: one link type, one interface, records of 16 (or, with Kuznetzov's change, 24) octets of header."""

    MAGIC: Final = {0xA1B2C3D4: (1000, 16), 0xA1B23C4D: (1, 16), 0xA1B2CD34: (1000, 24)}
    """Magic -> (nanoseconds of a fraction unit, octets of a record header)."""

    def __init__(self, source: str, magic: int, order: str, head: bytes) -> None:
        self._source, self._order = source, order
        self._unit, self._header = self.MAGIC[magic]
        major, minor, _, _, snapshot, link = struct.unpack_from(order + "HHIIII", head, 4)
        if major != 2:
            raise DecodeError(f"is pcap version {major}.{minor}; expected 2.x", source=source, offset=4)
        self._link = link & 0xFFFF
        self._most = max(MOST_CAPTURED, snapshot) if snapshot <= MOST_SNAPSHOT else MOST_CAPTURED
        self._guesses, self._hostile = self._header == 16, False
        self._scratch = np.empty(0, np.uint8)
        self.interfaces: list[str] = []
        self.offset = 24

    def take(self, data: Bytes, filled: int) -> tuple[Frames, int]:
        """See :meth:`Container.take`."""
        records = self._records(data, filled)
        u32 = np.ndarray((max(filled - 3, 0),), self._order + "u4", data, 0, (1,))
        captured = u32[records + 8].astype(np.int64)
        used = int(records[-1] + self._header + captured[-1]) if len(records) else 0
        if not used and filled >= self._header and (claim := int(u32[8])) > self._most:
            raise DecodeError(
                f"a record claims {claim} captured octets; expected at most {self._most}; what came before it was read",
                source=self._source,
                offset=self.offset,
            )
        # A fraction of a second or more is corrupt: it must not move the frame into the next.
        fraction = np.minimum(u32[records + 4].astype(np.int64) * self._unit, SECOND_NS - 1)
        self.offset += used
        frames = Frames(
            data=data,
            starts=records + self._header,
            captured=captured,
            length=u32[records + 12].astype(np.int64),
            time_ns=u32[records].astype(np.int64) * SECOND_NS + fraction,
            link=self._link,
        )
        return frames, used

    def _records(self, data: Bytes, filled: int) -> Offsets:
        """Offsets of the whole records."""
        guessed, at = np.zeros(0, np.int64), 0
        if self._guesses and filled >= _LEAST_GUESSED:
            guessed, at = self._guess(data, filled)
        found = [guessed, *self._chain(data, filled, at)]
        records = np.concatenate(found)
        if not len(records):
            return records
        if filled >= _LEAST_GUESSED:
            # Testing every octet pays only while frames are short.
            self._guesses = not self._hostile and self._header == 16 and len(records) * _SHORT > filled
        last = int(records[-1])
        size = struct.unpack_from(self._order + "I", data.data, last + 8)[0]
        return records if last + self._header + size <= filled else records[:-1]

    def _chain(self, data: Bytes, filled: int, at: int) -> Iterator[Offsets]:
        """Follow the records one by one from ``at``, the last of them perhaps not whole."""
        low, high, top = (8, 9, 10) if self._order == "<" else (11, 10, 8)
        upper = np.ndarray((max(filled - 1, 0),), "u2", data, 0, (1,))
        octets, header, last = data.data, self._header, filled - self._header
        while at <= last:
            # Two octets of the length are the fastest that Python can add up. The other two are checked a stretch at a
            # time: beyond a record that needs them, what was followed means nothing.
            chain: list[int] = []
            add, edge = chain.append, min(last, at + _STRETCH)
            while at <= edge:
                add(at)
                at += header + octets[at + low] + (octets[at + high] << 8)
            piece = np.array(chain, np.int64)
            large = np.flatnonzero(upper[piece + top])
            if not len(large):
                yield piece
                continue
            big = int(piece[large[0]])
            size = struct.unpack_from(self._order + "I", data.data, big + 8)[0]
            if size > self._most:
                yield piece[: large[0]]
                return
            yield piece[: large[0] + 1]
            at = big + header + size

    def _guess(self, data: Bytes, filled: int) -> tuple[Offsets, int]:
        """(offsets from 0 on, where the next record begins), all at once.

        Every octet is tested for being the first of a record header, then the chain is followed among those that may
        be. The chain's links are the records' own lengths, so a wrong guess can end it early but never bend it.
        """
        n = filled - 15
        if len(self._scratch) < 2 * n:
            self._scratch = np.empty(2 * n, np.uint8)
        maybe, other = self._scratch[:n], self._scratch[n : 2 * n]
        high = (8, 9, 12, 13) if self._order == ">" else (10, 11, 14, 15)
        second = 0 if self._order == ">" else 3
        # The same first octet of the second as the first record has, and both lengths below 65,536.
        np.bitwise_xor(data[second : second + n], data[second], out=maybe)
        for at in high:
            np.bitwise_or(maybe, data[at : at + n], out=maybe)
        places = np.flatnonzero(np.equal(maybe, 0, out=other.view(bool)))
        if len(places) == 0 or places[0] != 0 or len(places) > filled // 20:
            self._hostile = len(places) > filled // 20
            return np.zeros(0, np.int64), 0
        u32 = np.ndarray((filled - 3,), self._order + "u4", data, 0, (1,))
        sizes = u32[places + 8]
        # What no writer writes; a record that does is not lost, the guess only ends before it.
        likely = (sizes <= u32[places + 12]) & (u32[places + 4] < SECOND_NS // self._unit)
        likely[0] = True
        places = places[likely]
        after = places + 16 + sizes[likely]
        if not np.array_equal(places[1:], after[:-1]):
            reached = _reach(places, after)
            self._hostile = len(reached) * 4 < len(places) * 3
            places, after = places[reached], after[reached]
        return places, int(after[-1])

    def torn(self, rest: bytes) -> tuple[int, int]:
        """See :meth:`Container.torn`."""
        return (1, struct.unpack_from(self._order + "I", rest, 12)[0] if len(rest) >= 16 else 0)


def _reach(places: Offsets, after: Offsets) -> Offsets:
    """Indices of the places on the way from the first one, each leading to the one at ``after``."""
    breaks = np.flatnonzero(places[1:] != after[:-1]).tolist()
    if len(breaks) * 8 > len(places):
        return np.arange(breaks[0] + 1)
    parts = []
    here = 0
    for end in breaks:
        if end < here:
            continue
        parts.append(np.arange(here, end + 1))
        here = int(np.searchsorted(places, after[end]))
        if here == len(places) or places[here] != after[end]:
            return np.concatenate(parts)
    return np.concatenate([*parts, np.arange(here, len(places))])
