"""Syslog as collectors read it: RFC 5424 over each way, framed, cut between characters, and never broken by a name."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.core.accounts import Accounts
from agent.core.errors import SinkError
from agent.core.finding import Severity
from agent.core.stages import Context
from sinks.syslog import LARGEST_DATAGRAM, Settings, Syslog, cut, message
from tests.tools.certificates import Authority
from tests.tools.notices import opened

WHOLE = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<time>\S+) (?P<host>[!-~]{1,255}) sekisho (?P<pid>\d+) (?P<kind>\S+) "
    r'\[sekisho@32473(?P<facts>( [a-z_]+="(?:[^"\\\]]|\\["\\\]])*")*)\] \ufeff(?P<text>.*)',
    re.DOTALL,
)
"""SYSLOG-MSG of RFC 5424, section 6."""


def sink(folder: Path, host: str = "db-1", **given: Any) -> Syslog:
    """One that is set up so."""
    return Settings(**given).build(Context(accounts=Accounts(), state_dir=folder, host=host))


def parsed(sent: bytes) -> dict[str, str]:
    """The parts of a message; fails where it is none."""
    found = WHOLE.fullmatch(sent.decode())
    assert found is not None, sent
    return found.groupdict()


@contextlib.contextmanager
def listening(take: Callable[[socket.socket], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A collector for one connection, which reads to its end."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                got.append(take(connection))

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], got
        thread.join(30)


def everything(connection: socket.socket) -> bytes:
    """All that comes."""
    out = b""
    while more := connection.recv(65_536):
        out += more
    return out


def test_the_local_log_gets_one_datagram(tmp_path: Path) -> None:
    """With the priority of facility and severity, the ids that programs need, and the title."""
    place = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(place))
        notice = opened()
        sink(tmp_path, socket=place, facility="local3").write_notice(notice)
        found = parsed(end.recv(65_536))
    assert notice.case is not None
    assert notice.severity is Severity.HIGH
    assert (found["priority"], found["host"], found["kind"]) == (str(19 * 8 + 3), "db-1", "opened")
    assert f' id="{notice.id}" severity="high" case="{notice.case.id}"' in found["facts"]
    assert f'findings="{notice.case.findings[0].id}"' in found["facts"]
    assert "left db-ehr-01" in found["text"]


def test_a_log_daemon_that_takes_streams_alone_is_served(tmp_path: Path) -> None:
    """The same message, ended by a zero octet."""
    place = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.bind(str(place))
        end.listen()
        sink(tmp_path, socket=place).write_notice(opened())
        connection, _ = end.accept()
        with connection:
            sent = everything(connection)
    assert sent.endswith(b"\0")
    parsed(sent[:-1])


def test_a_datagram_over_udp_is_never_too_long(tmp_path: Path) -> None:
    """The whole text is cut to what every receiver takes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{end.getsockname()[1]}"
        sink(tmp_path, transport="udp", address=address, detail="full", language="ja").write_notice(opened())
        sent = end.recv(65_536)
    assert LARGEST_DATAGRAM - 4 < len(sent) <= LARGEST_DATAGRAM
    parsed(sent)


def test_over_tcp_a_message_is_framed_by_its_length(tmp_path: Path) -> None:
    """Octet counting, for a text may hold any octet."""
    with listening(everything) as (port, got):
        sink(tmp_path, transport="tcp", address=f"127.0.0.1:{port}", detail="full").write_notice(opened())
    length, _, rest = got[0].partition(b" ")
    assert int(length) == len(rest)
    parsed(rest)


def test_over_tls_the_collector_must_be_the_one_it_says(tmp_path: Path) -> None:
    """With the authority's certificate it is told; without, the fault names it and may be tried again."""
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue("collector"))

    def take(connection: socket.socket) -> bytes:
        try:
            with server.wrap_socket(connection, server_side=True) as end:
                return everything(end)
        except (ssl.SSLError, OSError):
            return b""

    with listening(take) as (port, got):
        given = {"transport": "tls", "address": f"127.0.0.1:{port}"}
        sink(tmp_path, **given, ca_file=authority.ca).write_notice(opened())
    parsed(got[0].partition(b" ")[2])
    with listening(take) as (port, got):
        with pytest.raises(SinkError, match=r"syslog tls 127\.0\.0\.1.*CERTIFICATE") as caught:
            sink(tmp_path, transport="tls", address=f"127.0.0.1:{port}").write_notice(opened())
        assert caught.value.retriable
    assert got == [b""]


def test_a_log_that_is_not_there_is_a_fault_that_may_pass(tmp_path: Path) -> None:
    """Named, and retriable."""
    with pytest.raises(SinkError, match=r"nowhere: No such file") as caught:
        sink(tmp_path, socket=tmp_path / "nowhere").write_notice(opened())
    assert caught.value.retriable


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_name_breaks_the_message(host: str, case: str) -> None:
    """Quotes, brackets, line breaks and what no terminal should see, in host and case: one well-formed message."""
    notice = opened()
    assert notice.case is not None
    notice = notice.model_copy(update={"case": notice.case.model_copy(update={"id": case})})
    sent = message(notice, "a title\nand more", host=host, facility=3)
    found = parsed(sent)
    assert found["text"] == "a title and more"


@given(st.text(max_size=60), st.integers(0, 80))
def test_a_cut_leaves_whole_characters(text: str, most: int) -> None:
    """At most so many octets, and what is left is the beginning."""
    found = cut(text.encode(), most)
    assert len(found) <= most or len(found) == len(text.encode())
    assert text.startswith(found.decode())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"transport": "udp"}, "address goes with udp, tcp and tls"),
        ({"address": "log.example.net"}, "address goes with udp, tcp and tls"),
        ({"facility": "lpr"}, "facility: expected one of auth"),
        ({"transport": "tcp", "address": "log.example.net:0"}, "expected HOST or HOST:PORT"),
        ({"transport": "tcp", "address": ":601"}, "expected HOST or HOST:PORT"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], said: str) -> None:
    """With what was expected."""
    with pytest.raises(ValidationError, match=said):
        Settings(**given)
