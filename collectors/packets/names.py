"""Host names of remote ends, where people switched them on: from DNS answers and TLS server names that pass by.

A name is a claim of whoever answered or asked, never a proof: it is shown beside an address and decides nothing. Only
the name is kept, in bounded memory, never a message. QUIC hides its server name in encryption, and so does ECH; DNS
over TCP, TLS and HTTPS is not read. A ClientHello that is cut into several segments gives its name only if it stands
in the first.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import OrderedDict
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch, Text
from agent.core.grouping import distinct
from agent.core.log import Log
from collectors.packets.filters import LONGEST, attach, names_filter
from collectors.packets.hellos import answer, server_name
from collectors.packets.links import LINKS, V4, V6, Bytes, Offsets, View
from collectors.packets.packet import Packets

_LOG: Final = Log(part="names")

MOST_ADDRESSES: Final = 65_536
MOST_FLOWS: Final = 65_536
"""Names remembered of addresses and of flows; above that the longest unused go."""
MOST_A_SECOND: Final = 1_000
"""Messages that a live capture reads in a second; the others are counted as missed."""
_DNS: Final = 53
_TCP, _UDP = 6, 17
_PAD: Final = 128
_SLACK_NS: Final = 10 * SECOND_NS
"""A flow may begin so much after its answer's time has run out, for the client asked before; and an answer may be
heard a little after the flow began."""
_RECEIVE: Final = 4 << 20
_SOL_PACKET, _STATISTICS = 263, 6
_EVERY: Final = 3

Flow = tuple[int, int, int, int]
"""(client address, client port, server address, server port)."""


class Names:
    """Remembers names and gives them to rows. Not thread-safe."""

    def __init__(self) -> None:
        self._of_address: OrderedDict[int, tuple[str, int, int]] = OrderedDict()
        """Address -> (name, heard at, holds until)."""
        self._of_flow: OrderedDict[Flow, str] = OrderedDict()

    def hear(self, packet: bytes, time_ns: int) -> None:
        """Take one packet, from its IP header on: a UDP datagram from port 53, or a TCP segment."""
        version = packet[0] >> 4 if packet else 0
        head = (packet[0] & 15) * 4 if version == 4 else 40
        if version not in (4, 6) or len(packet) < head + 20:
            return
        protocol = packet[9] if version == 4 else packet[6]
        if protocol == _UDP:
            self._hear_answer(packet[head + 8 :], time_ns)
        elif protocol == _TCP and (name := server_name(packet[head + (packet[head + 12] >> 4) * 4 :])):
            ends = slice(12, 20) if version == 4 else slice(8, 40)
            both = packet[ends]
            half = len(both) // 2
            prefix = 0xFFFF << 32 if version == 4 else 0
            client, server = int.from_bytes(both[:half]) | prefix, int.from_bytes(both[half:]) | prefix
            ports = struct.unpack_from("!HH", packet, head)
            self._remember((client, ports[0], server, ports[1]), name)

    def hear_frames(
        self,
        data: Bytes,
        starts: Offsets,
        captured: Offsets,
        time_ns: Offsets,
        link: int,
        packets: Packets,
        order: Offsets,
    ) -> None:
        """Take what may hold a name among the frames of a chunk of one link type, in their order.

        ``packets`` are those that were decoded from the frames ``order``. Only an outermost IP header is looked behind.
        """
        if link not in LINKS or not len(packets):
            return
        likely = (packets.protocol == _UDP) & (packets.source_port == _DNS)
        likely |= (packets.protocol == _TCP) & (packets.content_octets > 43)
        rows = distinct(order[likely])
        if not len(rows):
            return
        start, end = starts[rows], (starts + captured)[rows]
        if int(end.max()) + _PAD > len(data):
            data = np.concatenate((data, np.zeros(_PAD, np.uint8)))
        at = _network(data, start, end, link)
        which = np.flatnonzero(at >= 0)
        for row, place in zip(rows[which].tolist(), at[which].tolist(), strict=True):
            stop = min(int(starts[row] + captured[row]), place + LONGEST)
            self.hear(data[place:stop].tobytes(), int(time_ns[row]))

    def fill(self, batch: FlowBatch) -> FlowBatch:
        """The rows with ``remote_name`` where one is known. A Python object per row."""
        if not len(batch) or not (self._of_address or self._of_flow):
            return batch
        local, remote = _numbers(batch["local_address"]), _numbers(batch["remote_address"])
        reason = batch.text("end_reason")
        columns = (
            batch["local_port"].tolist(),
            batch["remote_port"].tolist(),
            batch["flows"].tolist(),
            batch["start_ns"].tolist(),
            reason.where("active").tolist(),
        )
        found = [
            self._name((here, port, there, remote_port), began, start_ns, goes_on)
            for here, there, port, remote_port, began, start_ns, goes_on in zip(
                local, remote, *columns, strict=True
            )
        ]
        return batch.with_columns(remote_name=Text.of(found))

    def _name(self, flow: Flow, began: int, start_ns: int, goes_on: bool) -> str | None:
        name = self._of_flow.get(flow)
        if name is None and began and (known := self._of_address.get(flow[2])):
            said, heard_ns, until_ns = known
            if heard_ns - _SLACK_NS <= start_ns <= until_ns:
                name = said
                if goes_on:
                    self._remember(flow, said)
        if name is not None and not goes_on:
            self._of_flow.pop(flow, None)
        return name

    def _hear_answer(self, message: bytes, time_ns: int) -> None:
        if (heard := answer(message)) is None:
            return
        for address, seconds in heard.addresses:
            until_ns = time_ns + seconds * SECOND_NS + _SLACK_NS
            self._of_address[address] = (heard.name, time_ns, until_ns)
            self._of_address.move_to_end(address)
        while len(self._of_address) > MOST_ADDRESSES:
            self._of_address.popitem(last=False)

    def _remember(self, flow: Flow, name: str) -> None:
        self._of_flow[flow] = name
        self._of_flow.move_to_end(flow)
        while len(self._of_flow) > MOST_FLOWS:
            self._of_flow.popitem(last=False)


class NameTap:
    """A packet socket that the kernel hands only what may hold a name: answers to this host, and its ClientHellos.

    It stands beside the capture's ring, whose frames stay cut after their headers. Close it; not thread-safe.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._second = -1
        self._left = 0
        self.missed = 0
        """Messages that were not read, because there were more than ``MOST_A_SECOND``."""

    def __enter__(self) -> Self:
        try:
            every = socket.htons(_EVERY)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, every)
        except OSError as error:
            raise CaptureError(
                f"cannot open a packet socket for names: {error.strerror}; run as root or with CAP_NET_RAW"
            ) from error
        attach(self._socket, names_filter())
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)
        self._socket.setblocking(False)
        # What came before the filter stood is not wanted.
        with contextlib.suppress(OSError):
            while self._socket.recv(1):
                pass
        self._lost()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def read(self, now_ns: int) -> None:
        """Hear what waits, as far as this second still allows. Does not block."""
        if now_ns // SECOND_NS != self._second:
            self._second, self._left = now_ns // SECOND_NS, MOST_A_SECOND
            self._count_missed()
        while self._left > 0:
            try:
                packet = self._socket.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise CaptureError(f"the packet socket for names failed: {error}") from error
                return
            self._left -= 1
            self._names.hear(packet, now_ns)

    def _lost(self) -> int:
        """Messages that the kernel dropped since it was last asked."""
        return int(struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))[1])

    def _count_missed(self) -> None:
        if dropped := self._lost():
            self.missed += dropped
            _LOG.warning("names_missed", messages=dropped, all=self.missed)


def _network(data: Bytes, start: Offsets, end: Offsets, link: int) -> Offsets:
    """Where the IP header of each frame begins that may hold a name; -1 for the others."""
    view = View(data)
    kind, at, _sent = LINKS[link](view, start, end)
    at = np.minimum(at, end)
    four, six = kind == V4, kind == V6
    first = view.u8[at].astype(np.int64)
    head = np.where(four, (first & 15) * 4, 40)
    protocol = np.where(four, view.u8[at + 9], view.u8[at + 6])
    whole = (four & (view.u16(at + 6) & 0x1FFF == 0)) | six
    transport = np.minimum(at + head, end)
    room = end - transport
    dns = (protocol == _UDP) & (room > 20) & (view.u16(transport) == _DNS)
    payload = np.minimum(transport + (view.u8[transport + 12].astype(np.int64) >> 4) * 4, end)
    # A ClientHello: record type handshake, version 3.x, message type 1.
    tls = (
        (protocol == _TCP)
        & (end - payload > 43)
        & (view.u16(payload) == 0x1603)
        & (view.u8[payload + 5] == 1)
    )
    return np.where(whole & (dns | tls), at, -1)


def _numbers(addresses: NDArray[Any]) -> list[int]:
    return [high << 64 | low for high, low in addresses.tolist()]
