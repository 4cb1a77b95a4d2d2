"""Payload blindness: a marked payload through every collector and sink leaves no piece of itself behind."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools import netns
from tests.tools.hello_messages import client_hello, dns_answer
from tests.tools.marked import Marked, everything
from tests.tools.netns import HOST4, PEER4, Pair, Task, wait_for
from tests.tools.program import environment

pytestmark = pytest.mark.root

MEGABYTE = 1_000_000
POLICY = """
version: 1
stores:
  - id: secrets
    categories: [trade_secret]
    recognise: {hosts: [this], ports: [6543]}
rules:
  - {id: any-egress, over: 1 KB, window: 5m, severity: high}
"""


class Receiver:
    """A webhook's receiver in a namespace; keeps all octets of every request."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        heard = self.heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.append(str(self.headers).encode() + body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@contextlib.contextmanager
def receiving(two: Pair) -> Iterator[Receiver]:
    made = two.host.call(Receiver)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def settings(folder: Path, port: int, **collectors: Any) -> Path:
    """A settings file with every sink."""
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    file = folder / "sekisho.yaml"
    url = f"http://127.0.0.1:{port}/hook"
    sinks = {
        "stdout": {"format": "full"},
        "jsonl": {"file": str(folder / "state/out.jsonl")},
        "ocsf": {"file": str(folder / "state/out.ocsf.jsonl")},
        "webhook": {"url": url, "secret_file": str(folder / "secret"), "detail": "full"},
    }
    file.write_text(
        json.dumps({"host": "db-01", "policy": ["policy.yaml"], "collectors": collectors, "sinks": sinks})
    )
    return file


def start(two: Pair, folder: Path, file: Path) -> subprocess.Popen[bytes]:
    """The program in the host's namespace, with all logs."""
    line = [sys.executable, "-m", "agent.cli", "-v", "-c", str(file), "--state-dir", str(folder / "state")]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{two.host.name}", *line, "up", "--plain"],
            cwd=folder,
            env=environment(folder),
            stdout=out,
            stderr=err,
        )


def converse(two: Pair, marked: Marked) -> None:
    """Send a megabyte each way over TCP, and datagrams, also such that look like DNS answers and ClientHellos."""
    payload = marked.payload(MEGABYTE)
    ready = threading.Event()

    def serve() -> None:
        with socket.create_server((PEER4, 6543)) as server:
            ready.set()
            for _ in range(2):
                with server.accept()[0] as link:
                    while link.recv(1 << 16):
                        pass
                    link.sendall(payload)

    def ask() -> None:
        hello = client_hello("web.example.net")
        for first in (b"", hello + payload[:900]):
            with socket.create_connection((PEER4, 6543)) as link:
                link.sendall(first + payload)
                link.shutdown(socket.SHUT_WR)
                while link.recv(1 << 16):
                    pass

    def answers() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind((PEER4, 53))
            for message in dns_messages(marked):
                here.sendto(message, (HOST4, 40_000))

    server = Task(two.peer, serve)
    wait_for(ready.is_set, "the server")
    two.host.call(ask)
    two.peer.call(answers)
    server.result()


def dns_messages(marked: Marked) -> list[bytes]:
    """A good answer with the mark in a text record behind it, a name made of the mark's odd forms, and plain payload."""
    good = dns_answer("db.example.org", [PEER4])
    text = bytes([0xC0, 0x0C]) + struct.pack("!HHIH", 16, 1, 60, 201) + b"\xc8" + marked.payload(200)
    both = good[:6] + struct.pack("!H", 2) + good[8:] + text
    odd = dns_answer("x_.example.org", [PEER4])
    return [good, both, odd, marked.payload(600), good[:12] + marked.payload(600)]


def capture_of(marked: Marked, file: Path) -> None:
    """Frames of every kind with marked content: plain, for scapy, in tunnels, DNS, ClientHello, cut, compressed."""
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import GRE, IP, TCP, UDP
    from scapy.layers.l2 import Dot1Q, Ether
    from scapy.layers.ppp import PPP, PPPoE
    from scapy.layers.vxlan import VXLAN
    from scapy.utils import wrpcap

    away, back = IP(src="10.0.0.1", dst="203.0.113.7"), IP(src="203.0.113.7", dst="10.0.0.1")
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    frames = []
    payload = marked.payload(MEGABYTE)
    for at in range(0, MEGABYTE, 1400):
        piece = payload[at : at + 1400]
        inner = away / TCP(sport=40000 + at % 7, dport=443, flags="PA", seq=at) / piece
        wrapped = [
            ether / inner,
            ether / MPLS(label=7) / inner,
            ether / PPPoE(sessionid=1) / PPP(proto=0x21) / inner,
            ether / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / inner,
            ether / away / GRE() / inner,
            ether / away / UDP(sport=50000, dport=4789) / VXLAN(vni=1) / ether / inner,
            Ether(type=0x1234) / piece,
        ]
        frames.append(wrapped[at // 1400 % len(wrapped)])
    frames += [ether / back / UDP(sport=53, dport=40000) / message for message in dns_messages(marked)]
    hello = client_hello("web.example.net") + marked.payload(300)
    frames.append(ether / away / TCP(sport=41000, dport=443, flags="PA") / hello)
    wrpcap(str(file), frames)
    with gzip.open(f"{file}.gz", "wb") as packed:
        packed.write(file.read_bytes()[:-700])


def left_behind(folder: Path, receiver: Receiver) -> list[tuple[str, bytes]]:
    """All that the run wrote, said and sent."""
    out = list(everything(folder))
    return out + [(f"webhook {i}", body) for i, body in enumerate(receiver.heard)]


def test_the_search_finds_what_was_planted(tmp_path: Path) -> None:
    """A piece of the mark in a compressed column, a database, a compressed file or a log is found, whatever its form."""
    marked = Marked()
    piece = marked.mark[5:] + marked.mark[:5]
    table = pa.table({"name": [piece.decode()], "clear": ["x"]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")  # type: ignore[no-untyped-call]
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as database:
        database.execute("create table t (a blob)")
        database.execute("insert into t values (?)", (marked.forms[6],))
        database.commit()
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"x" + marked.mark.hex().encode()))
    (tmp_path / "log").write_bytes(b"x" + marked.mark.upper()[3:20])
    (tmp_path / "empty").write_bytes(bytes(100))
    found = set(marked.hits(everything(tmp_path)))
    assert found - {"a.parquet"} == {"a.parquet:name", "log", "log.gz:plain", "state.db"}


def test_a_live_run_keeps_nothing_of_the_payload(tmp_path: Path) -> None:
    """A megabyte each way past the live collector, names on, and an alert in every sink: nothing of it is kept."""
    marked = Marked()
    with netns.pair(offload=True) as two, receiving(two) as receiver:
        file = settings(tmp_path, receiver.port, af_packet={"names": True, "loopback": True})
        process = start(two, tmp_path, file)
        try:
            wait_for(lambda: b"capture_started" in (tmp_path / "stderr").read_bytes(), "the capture", 60)
            converse(two, marked)
            wait_for(lambda: bool(receiver.heard), "an alert", 60)
        finally:
            process.terminate()
            code = process.wait(60)
        assert code == 0, (tmp_path / "stderr").read_text()
        places = left_behind(tmp_path, receiver)
    assert marked.hits(places) == []
    whole = b"".join(data for name, data in places)
    # It went through: amounts, and the names that may be kept, are there.
    assert b"web.example.net" in whole
    assert b"any-egress" in (tmp_path / "stdout").read_bytes() + whole
    parquet = sum(1 for name, _ in places if name.endswith(".parquet"))
    assert parquet >= 1


@pytest.mark.parametrize("tunnels", ["outer", "inner"])
def test_a_capture_file_keeps_nothing_of_its_payload(tmp_path: Path, tunnels: str) -> None:
    """A capture with odd frames, tunnels and a torn end, names on, through every sink: nothing of its content is kept."""
    marked = Marked()
    (tmp_path / "run").mkdir()
    captures = [tmp_path / "a.pcap", tmp_path / "a.pcap.gz"]
    capture_of(marked, captures[0])
    assert marked.hits(everything(tmp_path)) == ["a.pcap", "a.pcap.gz:plain"]
    with netns.pair() as two, receiving(two) as receiver:
        collector = {"files": [str(c) for c in captures], "names": True, "tunnels": tunnels}
        file = settings(tmp_path / "run", receiver.port, pcap=collector)
        process = start(two, tmp_path / "run", file)
        process.wait(120)
        places = left_behind(tmp_path / "run", receiver)
    said = (tmp_path / "run/stderr").read_text()
    assert "Traceback" not in said, said
    assert marked.hits(places) == []
    whole = b"".join(data for _, data in places)
    assert b"web.example.net" in whole
    assert b"203.0.113.7" in whole
