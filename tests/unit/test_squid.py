"""Squid's access log as flows: formats, growth, rotation, restart, bad lines."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.core.accounts import Accounts
from agent.core.errors import CaptureError, DecodeError
from agent.core.flow import concat
from agent.core.stages import Context
from collectors.squid import Settings, Squid

FORMAT = '%ts.%03tu %6tr %>a:%>p %Ss/%03>Hs %>st %<st %rm %ru %[un %Sh/%<a:%<p %mt "%{User-Agent}>h"'


def native(
    second: int, client: str = "10.20.4.11", end: str = "HIER_DIRECT/203.0.113.7", got: int = 5120
) -> str:
    """A line of Squid's own format."""
    return f"{second}.123    250 {client} TCP_TUNNEL/200 {got} CONNECT files.example:8443 - {end} -\n"


def whole(second: int, sent: int, client: str = "10.20.4.11") -> str:
    """A line of :data:`FORMAT`."""
    request = f"{client}:51000 TCP_TUNNEL/200 {sent} 900 CONNECT files.example:443 -"
    return f'{second}.500 3600000 {request} HIER_DIRECT/203.0.113.7:443 - "An agent, of a kind"\n'


def append(file: Path, text: str) -> None:
    """As Squid does."""
    with file.open("a") as log:
        log.write(text)


def collector(file: Path, **settings) -> tuple[Squid, Accounts]:
    """It, and its account."""
    accounts = Accounts()
    made = Settings.model_validate({"file": file, "follow": False} | settings)
    return made.build(Context(accounts, file.parent, host="proxy-1")), accounts


def rows(file: Path, **settings):
    """All rows of a log, as dicts."""
    return list(concat(list(collector(file, **settings)[0].collect(threading.Event()))).rows())


def told(monkeypatch, file: Path, **settings) -> list[tuple[str, int | None]]:
    """Event and line of all that is logged while a log is read."""
    heard: list[tuple[str, int | None]] = []
    log = SimpleNamespace(warning=lambda event, **facts: heard.append((event, facts.get("line"))))
    monkeypatch.setattr("collectors.squid._LOG", log)
    rows(file, **settings)
    return list(heard)


def test_a_line_is_a_row_from_the_client_to_the_server(tmp_path):
    """Time and duration, both addresses, ports, octets at Squid's layer, marked as a lower bound."""
    log = tmp_path / "access.log"
    log.write_text(whole(1_763_712_000, 42 * 10**9))
    (row,) = rows(log, format=FORMAT)
    names = (
        "local_address", "remote_address", "local_port", "remote_port", "content_octets_out", "octets_in",
        "source_layer", "marks", "initiator", "start_ns", "end_ns", "vantage",
    )  # fmt: skip
    assert {name: row[name] for name in names} == {
        "local_address": "10.20.4.11",
        "remote_address": "203.0.113.7",
        "local_port": 51_000,
        "remote_port": 443,
        "content_octets_out": 42 * 10**9,
        "octets_in": 900,
        "source_layer": "payload",
        "marks": 2,
        "initiator": "local",
        "start_ns": 1_763_708_400_500_000_000,
        "end_ns": 1_763_712_000_500_000_000,
        "vantage": "squid:access.log",
    }


def test_squids_own_format_has_no_amount_sent_and_says_so(tmp_path, monkeypatch):
    """What the client got is there; what it sent is not, and the log tells it."""
    log = tmp_path / "access.log"
    log.write_text(native(1_763_712_000, end="HIER_DIRECT/2001:db8::7"))
    (row,) = rows(log)
    assert (row["remote_address"], row["remote_port"], row["octets_out"], row["octets_in"]) == (
        "2001:db8::7",
        8443,
        0,
        5120,
    )
    assert told(monkeypatch, log) == [("sent_unknown", None)]
    assert told(monkeypatch, log, format=FORMAT)[0][0] == "bad_line"


def test_what_the_proxy_answered_by_itself_is_no_flow(tmp_path):
    """Hits and denials went nowhere; a parent that is a name has no address."""
    log = tmp_path / "access.log"
    log.write_text(native(1, end="HIER_NONE/-") + native(2, end="FIRSTUP_PARENT/upstream") + native(3))
    made, _ = collector(log)
    batch = concat(list(made.collect(threading.Event())))
    assert (len(batch), made.seen.answered_here, made.seen.unnamed, made.seen.bad) == (1, 1, 1, 0)


def test_bad_lines_are_counted_and_told_by_number(tmp_path, monkeypatch):
    """What is not in the format is let go with a count and its line; the others are rows."""
    log = tmp_path / "access.log"
    log.write_bytes(native(1).encode() + b"\xff\x00 rubbish\n" + native(2).encode() + b"\n" + b"x" * 70_000)
    made, accounts = collector(log)
    found = told(monkeypatch, log)
    assert len(concat(list(made.collect(threading.Event())))) == 2
    assert made.seen.bad == 2
    assert accounts.read().lost_frames["bad_line"] == (2, 70_010)
    assert found == [("sent_unknown", None), ("bad_line", 2), ("bad_line", 5)]


def test_a_log_of_another_format_is_refused(tmp_path):
    """A hundred lines none of which fits are no accident."""
    log = tmp_path / "access.log"
    log.write_text('192.0.2.1 - - [21/Nov/2025:08:00:00 +0000] "GET / HTTP/1.1" 200 5\n' * 120)
    with pytest.raises(DecodeError, match="give the `logformat`"):
        rows(log)
    with pytest.raises(CaptureError, match="name Squid's access_log"):
        rows(tmp_path / "none.log")
    with pytest.raises(ValidationError, match="it has no %<a"):
        Settings(file=log, format="%ts %>a")


def test_a_log_that_grows_and_is_rotated_loses_and_doubles_nothing(tmp_path):
    """Half a line waits for its rest; after the rotation the old log is read to its end, then the new one."""
    log = tmp_path / "access.log"
    line = native(3)
    log.write_text(native(1) + line[:20])
    made, _ = collector(log, follow=True)
    stop, seconds = threading.Event(), []
    steps = [
        lambda: append(log, line[20:] + native(4)),
        lambda: (log.rename(tmp_path / "access.log.0"), log.write_text(native(5))),
        lambda: append(log, native(6)),
        stop.set,
    ]
    done = [1, 3, 4, 99]  # rows read before each step
    for batch in made.collect(stop):
        seconds += [int(ns) // 10**9 for ns in batch["end_ns"]]
        if steps and len(seconds) >= done[0]:
            done.pop(0)
            steps.pop(0)()
            if steps == [stop.set]:
                done = [5]
    assert seconds == [1, 3, 4, 5, 6]


def test_after_a_restart_it_goes_on_where_it_was_durable(tmp_path):
    """By inode and offset, also where the log was rotated in between."""
    log = tmp_path / "access.log"
    log.write_text(native(1) + native(2))
    first, _ = collector(log)
    position = [b.header.position for b in first.collect(threading.Event())][-1]
    assert len(position.split(" ")) == 3
    with log.open("a") as more:
        more.write(native(3))
    log.rename(tmp_path / "access.log.1")
    log.write_text(native(4))
    again, _ = collector(log)
    again.resume(position)
    batch = concat(list(again.collect(threading.Event())))
    assert [int(ns) // 10**9 for ns in batch["end_ns"]] == [3, 4]


@given(st.lists(st.binary(max_size=80)))
def test_no_bytes_end_the_reading(tmp_path_factory, lines):
    """Whatever stands in a line, it is a row, a hit, a name or a bad line."""
    log = tmp_path_factory.mktemp("squid") / "access.log"
    log.write_bytes(b"\n".join([*lines, native(1).encode()]))
    made, _ = collector(log)
    assert len(concat(list(made.collect(threading.Event())))) >= 1
