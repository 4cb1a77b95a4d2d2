"""Made-up traffic whose amounts are known beforehand: frames, the capture that holds them, and what is true of them.

    python -m tests.tools.truth out.pcap 2000000 25000 [piece]      # packets, sessions; prints the truth as JSON

Addresses are of documentation and private networks only. One session is one flow by docs/flow-rule.md: it lasts at most
12 s, begins with a packet of its local end, and its ends and ports are its own. TCP sequence numbers are consistent, for
other analysers misjudge random ones.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

BEGIN_S = 1_760_000_000
LOCAL = ("10.0.0.0/8", "2001:db8:1::/48")
_LOCAL_V4, _LOCAL_V6 = 10 << 24, 0x2001_0DB8_0001_0000
_REMOTE_V4 = (0xC0000200, 0xC6336400, 0xCB007100)
_REMOTE_V6 = 0x2001_0DB8_0002_0000
_SERVICES = np.array([443, 80, 53, 5432, 9092, 8443, 22], np.int64)
_TCP_HEADER, _UDP_HEADER = 32, 8


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of traffic. ``v6``, ``udp`` and ``vlan`` are shares of the sessions; ``snap`` cuts the frames, 0 keeps them whole."""

    packets: int = 2000
    sessions: int = 100
    destinations: int = 60
    v6: float = 0.3
    udp: float = 0.2
    vlan: float = 0.0
    snap: int = 96
    seed: int = 7
    piece: int = 0
    """A later minute of the same traffic: other times, and sessions that no other piece holds."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Totals. Octets at the IP layer, headers included; ``content`` less headers."""

    packets: int
    octets: int
    octets_out: int
    octets_in: int
    content_octets_out: int
    sessions: int
    v6_packets: int
    udp_packets: int
    vlan_packets: int
    frame_octets: int


Session = tuple[int, int, int, int, int]
"""(local address, local port, remote address, remote port, protocol), addresses as 128-bit numbers, IPv4 v4-mapped."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames in order of time, and what is true of them."""

    frames: NDArray[np.uint8]
    """(packets, longest frame); a frame fills the first ``captured`` octets."""
    captured: Numbers
    length: Numbers
    time_ns: Numbers
    truth: Truth
    sessions: dict[Session, tuple[int, int, int, int, int]]
    """Session -> (octets out, packets out, octets in, packets in, content octets out)."""

    def pcap(self, *, nano: bool = False, order: str = "<") -> bytes:
        """The frames as a classic capture with microsecond or nanosecond times."""
        unit, magic = (1, 0xA1B23C4D) if nano else (1000, 0xA1B2C3D4)
        width = self.frames.shape[1]
        records = np.zeros((len(self.frames), 16 + width), np.uint8)
        columns = (self.time_ns // 10**9, self.time_ns % 10**9 // unit, self.captured, self.length)
        head = np.stack(columns, axis=1).astype(order + "u4")
        records[:, :16] = head.view(np.uint8).reshape(len(head), 16)
        records[:, 16:] = self.frames
        kept = np.arange(16 + width) < (16 + self.captured)[:, None]
        return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, max(width, 1), 1) + records[kept].tobytes()


def write_pcap(path: Path, **shape: Any) -> Truth:
    """Write a classic capture of made-up traffic; the keywords are those of :class:`Shape`."""
    made = traffic(Shape(**shape))
    path.write_bytes(made.pcap())
    return made.truth


def traffic(shape: Shape) -> Traffic:
    """Traffic of this shape, the same every time."""
    return _Maker(shape).make()


class _Maker:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = random = np.random.default_rng(shape.seed + shape.piece)
        n, sessions = shape.packets, shape.sessions
        number = np.arange(sessions)
        self.six = random.random(sessions) < shape.v6
        self.udp = random.random(sessions) < shape.udp
        self.tagged = random.random(sessions) < shape.vlan
        # Counted through, so that no two sessions share ends and ports.
        counted = number + shape.piece * sessions
        self.local = _LOCAL_V4 + counted // 60_000 * 5003 + counted * 2_654_435_761 % 5003
        self.local_port = 1024 + counted % 60_000
        target = np.minimum(random.zipf(1.2, sessions) - 1, 1 << 30) % shape.destinations
        self.remote = np.array(_REMOTE_V4)[target % 3] + 1 + target // 3 % 250
        self.remote_port = random.choice(_SERVICES, sessions)
        count = np.full(sessions, 2) + self._spread(n - 2 * sessions)
        first = np.cumsum(count) - count
        session = np.repeat(number, count)
        begin, span = random.random(sessions) * 45, np.minimum(random.exponential(6, sessions), 12)
        time = begin[session] + span[session] * (random.random(n) * 0.99 + 0.01)
        down = random.random(n) < 0.45
        time[first], down[first] = begin, False
        time[first + 1], down[first + 1] = begin + 1e-4, True
        opening = np.zeros(n, bool)
        opening[first] = opening[first + 1] = True
        order = np.lexsort((~opening, time))
        self.session, self.down, self.opening = session[order], down[order], opening[order]
        self.time_ns = (BEGIN_S + 60 * shape.piece) * 10**9 + (time[order] * 1e6).astype(np.int64) * 1000
        content = np.where(random.random(n) < 0.3, random.integers(60, 700, n), 1400)
        content[(random.random(n) < 0.45) | self.opening] = 0
        of_udp = self.udp[self.session]
        self.content = np.where(of_udp & (content == 0), 64, content)
        self.header = np.where(self.six[self.session], 40, 20)
        self.octets = self.header + np.where(of_udp, _UDP_HEADER, _TCP_HEADER) + self.content
        self.sequences = self._sequences()

    def _spread(self, packets: int) -> Numbers:
        weight = self.random.pareto(1.1, self.shape.sessions) + 0.05
        return self.random.multinomial(packets, weight / weight.sum())

    def make(self) -> Traffic:
        length = self.octets + 14 + 4 * self.tagged[self.session]
        captured = np.minimum(length, self.shape.snap) if self.shape.snap else length
        frames = self._frames(int(captured.max()))
        frames[np.arange(frames.shape[1]) >= captured[:, None]] = 0
        return Traffic(frames, captured, length, self.time_ns, self._truth(length), self._sessions())

    def _truth(self, length: Numbers) -> Truth:
        up = ~self.down
        return Truth(
            packets=len(length),
            octets=int(self.octets.sum()),
            octets_out=int(self.octets[up].sum()),
            octets_in=int(self.octets[self.down].sum()),
            content_octets_out=int(self.content[up].sum()),
            sessions=self.shape.sessions,
            v6_packets=int(self.six[self.session].sum()),
            udp_packets=int(self.udp[self.session].sum()),
            vlan_packets=int(self.tagged[self.session].sum()),
            frame_octets=int(length.sum()),
        )

    def _sessions(self) -> dict[Session, tuple[int, int, int, int, int]]:
        def total(of: Numbers, where: Numbers) -> list[int]:
            summed = np.bincount(self.session, weights=of * where, minlength=self.shape.sessions)
            return summed.astype(np.int64).tolist()

        up, one = ~self.down, np.ones(len(self.session))
        sums = zip(
            total(self.octets, up),
            total(one, up),
            total(self.octets, self.down),
            total(one, self.down),
            total(self.content, up),
            strict=True,
        )
        v4 = 0xFFFF << 32
        names = zip(
            *(
                v.tolist()
                for v in (self.six, self.local, self.local_port, self.remote, self.remote_port, self.udp)
            ),
            strict=True,
        )
        return {
            (
                _LOCAL_V6 << 64 | local if six else v4 | local,
                local_port,
                _REMOTE_V6 << 64 | remote if six else v4 | remote,
                remote_port,
                17 if udp else 6,
            ): amounts
            for (six, local, local_port, remote, remote_port, udp), amounts in zip(names, sums, strict=True)
        }  # fmt: skip

    def _frames(self, width: int) -> NDArray[np.uint8]:
        # Headers reach to octet 90; frames that are longer go on with zeros.
        out = np.zeros((len(self.session), max(width, 96)), np.uint8)
        out[:, :12] = (2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
        six, udp, tagged = self.six[self.session], self.udp[self.session], self.tagged[self.session]
        for is_six in (False, True):
            for is_tagged in (False, True):
                rows = np.flatnonzero((six == is_six) & (tagged == is_tagged))
                at = 14
                if is_tagged:
                    _put(out, rows, 12, ">u2", np.full(len(rows), 0x8100))
                    _put(out, rows, 14, ">u2", np.full(len(rows), 100))
                    at = 18
                _put(out, rows, at - 2, ">u2", np.full(len(rows), 0x86DD if is_six else 0x0800))
                (self._ipv6 if is_six else self._ipv4)(out, rows, at)
                after = at + (40 if is_six else 20)
                self._ports(out, rows, after)
                self._udp(out, rows[udp[rows]], after)
                self._tcp(out, rows[~udp[rows]], after)
        return out[:, :width]

    def _ends(self, rows: Numbers, local: Numbers, remote: Numbers) -> tuple[Numbers, Numbers]:
        """(source, target) of each packet."""
        down, session = self.down[rows], self.session[rows]
        return np.where(down, remote[session], local[session]), np.where(
            down, local[session], remote[session]
        )

    def _ipv4(self, out: NDArray[np.uint8], rows: Numbers, at: int) -> None:
        out[rows, at] = 0x45
        _put(out, rows, at + 2, ">u2", self.octets[rows])
        out[rows, at + 6], out[rows, at + 8] = 0x40, 64
        out[rows, at + 9] = np.where(self.udp[self.session[rows]], 17, 6)
        source, target = self._ends(rows, self.local, self.remote)
        _put(out, rows, at + 12, ">u4", source)
        _put(out, rows, at + 16, ">u4", target)
        words = out[rows, at : at + 20].astype(np.uint32)
        checksum = (words[:, 0::2] * 256 + words[:, 1::2]).sum(axis=1)
        for _ in range(2):
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
        _put(out, rows, at + 10, ">u2", ~checksum & 0xFFFF)

    def _ipv6(self, out: NDArray[np.uint8], rows: Numbers, at: int) -> None:
        out[rows, at] = 0x60
        _put(out, rows, at + 4, ">u2", self.octets[rows] - 40)
        out[rows, at + 6] = np.where(self.udp[self.session[rows]], 17, 6)
        out[rows, at + 7] = 64
        source, target = self._ends(rows, self.local, self.remote)
        down = self.down[rows]
        _put(out, rows, at + 8, ">u8", np.where(down, _REMOTE_V6, _LOCAL_V6))
        _put(out, rows, at + 16, ">u8", source)
        _put(out, rows, at + 24, ">u8", np.where(down, _LOCAL_V6, _REMOTE_V6))
        _put(out, rows, at + 32, ">u8", target)

    def _ports(self, out: NDArray[np.uint8], rows: Numbers, at: int) -> None:
        source, target = self._ends(rows, self.local_port, self.remote_port)
        _put(out, rows, at, ">u2", source)
        _put(out, rows, at + 2, ">u2", target)

    def _udp(self, out: NDArray[np.uint8], rows: Numbers, at: int) -> None:
        _put(out, rows, at + 4, ">u2", self.content[rows] + _UDP_HEADER)

    def _tcp(self, out: NDArray[np.uint8], rows: Numbers, at: int) -> None:
        sequence, acknowledged = self.sequences
        _put(out, rows, at + 4, ">u4", sequence[rows])
        _put(out, rows, at + 8, ">u4", acknowledged[rows])
        out[rows, at + 12] = 0x80
        out[rows, at + 13] = np.where(self.opening[rows], np.where(self.down[rows], 0x12, 0x02), 0x10)
        _put(out, rows, at + 14, ">u2", np.full(len(rows), 65000))
        out[rows, at + 20 : at + 24] = (1, 1, 8, 10)

    def _sequences(self) -> tuple[Numbers, Numbers]:
        """(sequence, acknowledgement): each end counts its own content, and acknowledges all that the other sent so far."""
        step = self.content + self.opening
        half = self.session * 2 + self.down
        order = np.argsort(half, kind="stable")
        before = np.cumsum(step[order]) - step[order]
        begins = np.flatnonzero(np.diff(half[order], prepend=-1))
        base = np.zeros(2 * self.shape.sessions, np.int64)
        base[half[order][begins]] = before[begins]
        sequence = np.empty(len(half), np.int64)
        sequence[order] = before - base[half[order]]
        sequence += 1000
        by_session = np.argsort(self.session, kind="stable")
        acknowledged = np.zeros(len(half), np.int64)
        room = 1 << 36
        floor = self.session[by_session] * room
        for direction in (False, True):
            sends = self.down[by_session] == direction
            newest = np.where(sends, (sequence + step)[by_session], 0)
            highest = np.maximum.accumulate(floor + newest) - floor
            acknowledged[by_session[~sends]] = highest[~sends]
        return sequence, acknowledged


def _put(out: NDArray[np.uint8], rows: Numbers, at: int, kind: str, values: Numbers) -> None:
    octets = np.ascontiguousarray(values.astype(kind)).view(np.uint8)
    size = np.dtype(kind).itemsize
    out[rows, at : at + size] = octets.reshape(len(rows), size)


if __name__ == "__main__":
    file, packets, sessions, *rest = sys.argv[1:]
    told = write_pcap(
        Path(file),
        packets=int(packets),
        sessions=int(sessions),
        destinations=700,
        piece=int(rest[0]) if rest else 0,
    )
    print(json.dumps(dataclasses.asdict(told)))
