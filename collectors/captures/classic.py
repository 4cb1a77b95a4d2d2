"""Classic pcap, without I/O (draft-ietf-opsawg-pcap; limits as libpcap's sf-pcap.c has them)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np

from agent.core.clock import SECOND_NS
from agent.core.errors import DecodeError
from collectors.captures import stride
from collectors.captures.frames import MOST_CAPTURED, MOST_SNAPSHOT, Frames
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
        self._guesses = self._pays = self._header == 16
        self.interfaces: list[str] = []
        self.offset = 24

    def take(self, data: Bytes, filled: int) -> tuple[Frames, int]:
        """See :meth:`Container.take`."""
        records = self._records(data, filled)
        headers = np.ndarray((max(filled - 15, 0),), "V16", data, 0, (1,))[records]
        second, fraction, captured, length = (
            headers.view(self._order + "u4").reshape(-1, 4).T.astype(np.int64)
        )
        used = int(records[-1] + self._header + captured[-1]) if len(records) else 0
        if (
            not used
            and filled >= self._header
            and (claim := struct.unpack_from(self._order + "I", data.data, 8)[0]) > self._most
        ):
            raise DecodeError(
                f"a record claims {claim} captured octets; expected at most {self._most}; what came before it was read",
                source=self._source,
                offset=self.offset,
            )
        # A fraction of a second or more is corrupt: it must not move the frame into the next.
        fraction *= self._unit
        np.minimum(fraction, SECOND_NS - 1, out=fraction)
        self.offset += used
        frames = Frames(
            data=data,
            starts=records + self._header,
            captured=captured,
            length=length,
            time_ns=second * SECOND_NS + fraction,
            link=self._link,
        )
        return frames, used

    def _records(self, data: Bytes, filled: int) -> Offsets:
        """Offsets of the whole records."""
        guessed, at = np.zeros(0, np.int64), 0
        if self._guesses and filled >= _LEAST_GUESSED:
            guessed, at, self._pays = stride.records(data, filled, self._order, SECOND_NS // self._unit)
        found = [guessed, *self._chain(data, filled, at)]
        records = np.concatenate(found)
        if not len(records):
            return records
        if filled >= _LEAST_GUESSED:
            # Guessing pays only while frames are short.
            self._guesses = self._pays and self._header == 16 and len(records) * _SHORT > filled
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

    def torn(self, rest: bytes) -> tuple[int, int]:
        """See :meth:`Container.torn`."""
        return (1, struct.unpack_from(self._order + "I", rest, 12)[0] if len(rest) >= 16 else 0)
