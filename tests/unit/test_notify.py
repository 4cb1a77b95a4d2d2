"""What is said to the service manager, over the socket it names, and what becomes of wrong names."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.notify import Notifier, Watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    address = f"{tmp_path}/notify" if request.param == "path" else f"@sekisho-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        yield address, listener


def test_fields_arrive_in_one_message(manager: tuple[str, socket.socket]) -> None:
    """A path and an abstract address are both reached; each field is a line, and a text is one line too."""
    address, listener = manager
    notifier = Notifier(address)
    notifier.send(READY=1, STATUS="two\nlines 関所")
    assert (notifier.listened, notifier.fault) == (True, "")
    assert listener.recv(9999) == "READY=1\nSTATUS=two lines 関所".encode()


def test_nobody_listens() -> None:
    """Without NOTIFY_SOCKET nothing is sent and nothing is wrong."""
    for given in (None, ""):
        notifier = Notifier(given)
        notifier.send(READY=1)
        assert (notifier.listened, notifier.fault) == (False, "")


@pytest.mark.parametrize("given", ["run/notify", "vsock:2:1234", "@"])
def test_an_address_of_no_known_kind_is_named(given: str) -> None:
    """It is told once, with what was expected; the program goes on."""
    notifier = Notifier(given)
    notifier.send(READY=1)
    assert not notifier.listened
    assert notifier.fault == f"NOTIFY_SOCKET={given}: expected a path from / on, or @ and an abstract name"


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    """A socket that is not there, or whose name is too long, is a fault and no error; an abstract one is shown with @."""
    for address, said in (
        (f"{tmp_path}/gone", "No such file or directory"),
        ("@sekisho-nobody", "NOTIFY_SOCKET=@sekisho-nobody: Connection refused"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
    ):
        notifier = Notifier(address)
        notifier.send(READY=1)
        assert said in notifier.fault


def test_a_full_manager_never_blocks(tmp_path: Path) -> None:
    """Nobody reads: messages are let go, the program does not wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"{tmp_path}/notify")
        notifier = Notifier(f"{tmp_path}/notify")
        for _ in range(2000):
            notifier.send(WATCHDOG=1, STATUS="x" * 3000)
        assert "temporarily unavailable" in notifier.fault


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, Watchdog()),
        ({"WATCHDOG_USEC": "3000000"}, Watchdog(3 * 10**9)),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, Watchdog(3 * 10**9)),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, Watchdog()),
        ({"WATCHDOG_USEC": "0"}, Watchdog(fault="WATCHDOG_USEC=0: expected microseconds, such as 60000000")),
        (
            {"WATCHDOG_USEC": "1m"},
            Watchdog(fault="WATCHDOG_USEC=1m: expected microseconds, such as 60000000"),
        ),
        ({"WATCHDOG_USEC": "٣"}, Watchdog(fault="WATCHDOG_USEC=٣: expected microseconds, such as 60000000")),
        (
            {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "me"},
            Watchdog(fault="WATCHDOG_PID=me: expected a process id"),
        ),
    ],
)
def test_the_watchdog_s_variables(environ: dict[str, str], watchdog: Watchdog) -> None:
    """As sd_watchdog_enabled(3): for this process, in microseconds; what is wrong is named and nothing is promised."""
    assert Watchdog.of(environ, 7) == watchdog
