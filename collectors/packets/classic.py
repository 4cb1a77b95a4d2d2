"""Classic pcap, without I/O (draft-ietf-opsawg-pcap; limits as libpcap's sf-pcap.c has them)."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from agent.core.clock import SECOND_NS
from agent.core.errors import DecodeError
from collectors.packets.frames import MOST_CAPTURED, MOST_SNAPSHOT, Frames
from collectors.packets.links import Bytes, Offsets


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
        low, high, top = (8, 9, 10) if self._order == "<" else (11, 10, 8)
        upper = np.ndarray((max(filled - 1, 0),), "u2", data, 0, (1,))
        octets = data.data
        found: list[Offsets] = []
        at, last = 0, filled - self._header
        while at <= last:
            # Two octets of the length are the fastest that Python can add up; the other two are checked at once after.
            chain: list[int] = []
            add, header = chain.append, self._header
            while at <= last:
                add(at)
                at += header + octets[at + low] + (octets[at + high] << 8)
            piece = np.array(chain, np.int64)
            large = np.flatnonzero(upper[piece + top])
            if not len(large):
                found.append(piece)
                break
            found.append(piece[: large[0] + 1])
            big = int(piece[large[0]])
            size = struct.unpack_from(self._order + "I", data.data, big + 8)[0]
            at = big + header + size
            if size > self._most:
                found[-1] = found[-1][:-1]
                break
        records = np.concatenate(found) if found else np.zeros(0, np.int64)
        return self._whole(data, filled, records)

    def _whole(self, data: Bytes, filled: int, records: Offsets) -> Offsets:
        """Without the last record if it is not all there."""
        if not len(records):
            return records
        last = int(records[-1])
        size = struct.unpack_from(self._order + "I", data.data, last + 8)[0]
        return records if last + self._header + size <= filled else records[:-1]

    def torn(self, rest: bytes) -> tuple[int, int]:
        """See :meth:`Container.torn`."""
        return (1, struct.unpack_from(self._order + "I", rest, 12)[0] if len(rest) >= 16 else 0)
