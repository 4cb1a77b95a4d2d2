"""What sends: a program of its own, started by :mod:`tests.capture.actor`; only the standard library, so that it starts fast.

``senders.py JOB JSON`` joins a cgroup, a network namespace and a user, and runs the function ``JOB``. A job is a
generator: each value it yields goes out as a line of JSON, and it goes on when a line comes in. ``sent`` in what it
says is the number of octets that its own system calls accepted.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kernel_calls  # these stand beside this file, which is what Python was started with
import servers
from ends import CHUNK, connected, datagrams, enter, family_of, finish

Said = dict[str, Any]
Job = Callable[[dict[str, Any]], Iterator[Said]]


def tcp_bulk(given: dict[str, Any]) -> Iterator[Said]:
    """One connection, plain send."""
    link = connected(given)
    link.sendall(bytes(given["octets"]))
    finish(link)
    yield {"sent": given["octets"]}


def tcp_download(given: dict[str, Any]) -> Iterator[Said]:
    """One connection that mostly receives."""
    link = connected(given)
    link.sendall(b"GET")
    finish(link)
    yield {"sent": 3}


def udp_small(given: dict[str, Any]) -> Iterator[Said]:
    """64 octets again and again on a connected socket."""
    with datagrams(given) as link:
        link.connect((given["to"], given["port"]))
        for _ in range(given["count"]):
            link.send(bytes(64))
    yield {"sent": 64 * given["count"]}


def udp_unconnected(given: dict[str, Any]) -> Iterator[Said]:
    """sendto on one socket to some ports, sizes from 0 to 1,400."""
    sent = 0
    with datagrams(given) as link:
        for n in range(given["count"]):
            sent += link.sendto(bytes(n * 37 % 1401), (given["to"], given["port"] + n % 7))
    yield {"sent": sent}


def udp_fan(given: dict[str, Any]) -> Iterator[Said]:
    """One datagram in every one of many flows, twice, so that all of them are alive at once."""
    links = [datagrams(given) for _ in range(-(-given["count"] // 10_000))]
    left = given["count"]
    for link in links:
        for port in range(20_000, 20_000 + min(left, 10_000)):
            for _ in range(2):
                link.sendto(b"12345678", (given["to"], port))
        left -= 10_000
    yield {"sent": 16 * given["count"]}


def udp_fragments(given: dict[str, Any]) -> Iterator[Said]:
    """Datagrams larger than the link takes."""
    with datagrams(given) as link:
        for _ in range(given["count"]):
            link.sendto(bytes(9000), (given["to"], given["port"]))
    yield {"sent": 9000 * given["count"]}


def udp_segment(given: dict[str, Any]) -> Iterator[Said]:
    """UDP_SEGMENT (linux/udp.h): one call, many datagrams, cut by the kernel, as QUIC servers do."""
    sol_udp, udp_segment_option = 17, 103
    with datagrams(given) as link:
        link.connect((given["to"], given["port"]))
        link.setsockopt(sol_udp, udp_segment_option, 1200)
        for _ in range(given["count"]):
            link.send(bytes(30 * 1200 + 77))
    yield {"sent": given["count"] * (30 * 1200 + 77)}


def sendfile(given: dict[str, Any]) -> Iterator[Said]:
    """sendfile(2) from a file."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(given["octets"]))
        file.flush()
        link = connected(given)
        sent = 0
        while n := os.sendfile(link.fileno(), file.fileno(), sent, given["octets"] - sent):
            sent += n
        finish(link)
    yield {"sent": sent}


def splice(given: dict[str, Any]) -> Iterator[Said]:
    """splice(2) from a file through a pipe."""
    read, write = os.pipe()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(given["octets"]))
        file.seek(0)
        link = connected(given)
        sent = 0
        while n := os.splice(file.fileno(), write, CHUNK):
            while n:
                n -= (some := os.splice(read, link.fileno(), n))
                sent += some
        finish(link)
    yield {"sent": sent}


def held_open(given: dict[str, Any]) -> Iterator[Said]:
    """A connection and a UDP socket; sends a little, waits for the word, then sends the rest."""
    link, loose = connected(given), datagrams(given)
    loose.connect((given["to"], given["port"]))
    link.sendall(bytes(1000))
    yield {"port": link.getsockname()[1]}
    for _ in range(100):
        loose.send(bytes(100))
    link.sendall(bytes(given["octets"]))
    finish(link)
    yield {"sent": given["octets"] + 10_000}


def gone_at_once(given: dict[str, Any]) -> Iterator[Said]:
    """Children that connect, send and are gone, one after another."""
    pids = []
    for _ in range(given["count"]):
        if pid := os.fork():
            os.waitpid(pid, 0)
            pids.append(pid)
            continue
        connected(given).send(bytes(500))
        os._exit(0)
    yield {"sent": 500 * given["count"], "pids": pids}


def handed_over(given: dict[str, Any]) -> Iterator[Said]:
    """A connection that goes to a child through a local socket (SCM_RIGHTS, unix(7)), and is closed here."""
    here, there = socket.socketpair(socket.AF_UNIX)
    pid = os.fork()
    if not pid:
        (number,) = socket.recv_fds(there, 1, 1)[1]
        link = socket.socket(fileno=number)
        link.sendall(bytes(given["octets"]))
        finish(link)
        os._exit(0)
    link = connected(given)
    socket.send_fds(here, [b"x"], [link.fileno()])
    link.close()
    os.waitpid(pid, 0)
    yield {"sent": given["octets"], "pids": [pid]}


def upload(given: dict[str, Any]) -> Iterator[Said]:
    """A file, as an upload program sends it."""
    link = connected(given)
    with Path(given["file"]).open("rb") as file:
        sent = link.sendfile(file)
    finish(link)
    yield {"sent": sent}


def half_closed(given: dict[str, Any]) -> Iterator[Said]:
    """The server ends its side first and we go on sending."""
    link = connected(given)
    link.sendall(b"go")
    while link.recv(CHUNK):
        pass
    link.sendall(bytes(given["octets"]))
    link.close()
    yield {"sent": given["octets"] + 2}


def until_told(given: dict[str, Any]) -> Iterator[Said]:
    """Datagrams without end, about 5,000 a second; says so once it has begun, and ends at the next word."""
    count = 0
    with datagrams(given) as link:
        link.connect((given["to"], given["port"]))
        link.send(bytes(100))
        print(json.dumps({}), flush=True)
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            for _ in range(10):
                link.send(bytes(100))
                count += 1
    sys.stdin.readline()
    yield {"sent": 100 * (count + 1)}


def becomes(given: dict[str, Any]) -> Iterator[Said]:
    """Another program, in this process."""
    os.execv(given["line"][0], given["line"])
    yield {}


def sctp(given: dict[str, Any]) -> Iterator[Said]:
    """One association."""
    with socket.socket(family_of(given["to"]), socket.SOCK_STREAM, 132) as link:
        link.connect((given["to"], given["port"]))
        for _ in range(given["octets"] // 1000):
            link.sendall(bytes(1000))
    yield {"sent": given["octets"] // 1000 * 1000}


def raw_ip(given: dict[str, Any]) -> Iterator[Said]:
    """A raw IP socket with a protocol number for experiments (RFC 3692)."""
    with socket.socket(family_of(given["to"]), socket.SOCK_RAW, 253) as link:
        for n in range(given["count"]):
            link.sendto(bytes(n % 1000), (given["to"], 0))
    yield {"sent": sum(n % 1000 for n in range(given["count"]))}


def packet_socket(given: dict[str, Any]) -> Iterator[Said]:
    """Whole frames through a packet socket, past all of IP."""
    frame = bytes.fromhex(given["frame"])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("h0", 0))
        for _ in range(given["count"]):
            link.send(frame)
    yield {"sent": given["content"] * given["count"]}


def ping(given: dict[str, Any]) -> Iterator[Said]:
    """Echo requests through a raw socket; waits for each answer."""
    six = ":" in given["to"]
    protocol, kind, answer = (58, 128, 129) if six else (1, 8, 0)
    with socket.socket(family_of(given["to"]), socket.SOCK_RAW, protocol) as link:
        link.settimeout(10)
        for n in range(given["count"]):
            body = struct.pack("!HH", os.getpid() & 0xFFFF, n) + bytes(n % 900)
            link.sendto(
                struct.pack("!BBH", kind, 0, 0 if six else _checksum(kind, body)) + body, (given["to"], 0)
            )
            while (got := link.recv(2000))[0 if six else (got[0] & 15) * 4] != answer:
                pass
    yield {"sent": sum(8 + n % 900 for n in range(given["count"]))}


def _checksum(kind: int, body: bytes) -> int:
    data = struct.pack("!BBH", kind, 0, 0) + body + bytes(len(body) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    """Run the job that is named first with what is given second."""
    given = json.loads(sys.argv[2])
    enter(given)
    places = (globals(), vars(kernel_calls), vars(servers))
    job: Job = next(place[sys.argv[1]] for place in places if sys.argv[1] in place)
    say({"pid": os.getpid()})
    for said in job(given):
        say(said)


def say(said: Said) -> None:
    """A line out; back when a line comes in."""
    print(json.dumps(said), flush=True)
    if not sys.stdin.readline():
        os._exit(1)


if __name__ == "__main__":
    main()
