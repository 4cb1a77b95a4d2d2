"""A run under a service manager: when it is ready, when it gives a sign of life, and when it does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from agent import logs
from agent.core.clock import SECOND_NS, DataClock
from agent.core.errors import CaptureError, SekishoError
from agent.notify import Notifier, Watchdog
from agent.service import Service


class Kept(Notifier):
    """Keeps what is sent, without STATUS."""

    def __init__(self) -> None:
        super().__init__(None)
        self.sent: list[str] = []
        self.status = ""

    def send(self, **fields: object) -> None:
        """Keep it."""
        self.status = str(fields.pop("STATUS", self.status))
        self.sent.extend(f"{name}={value}" for name, value in fields.items() if name != "MONOTONIC_USEC")


class Site:
    """A service whose clock the test moves."""

    def __init__(self, live: Sequence[str] = ("ebpf",), seconds: int = 40) -> None:
        self.clock = DataClock()
        self.manager, self.stop = Kept(), threading.Event()
        self.failures: dict[str, SekishoError] = {}
        self.service = Service(
            self.manager, Watchdog(seconds * SECOND_NS), self.clock, status=lambda: "watching"
        )
        self.service.begins(frozenset(live), self.failures, self.stop)

    def turns(self, *turns: str) -> list[str]:
        """Let a second pass before each turn of the worker; what was sent."""
        self.manager.sent.clear()
        for collector in turns:
            self.clock.set(self.clock.now_ns() + SECOND_NS)
            self.service.turned(collector)
        return self.manager.sent


def test_one_that_stands_by_is_ready_and_alive() -> None:
    """A detector that waits for its turn is what it should be: ready once, and with signs of life for as long as it waits."""
    site = Site([])
    for _ in range(20):
        site.clock.set(site.clock.now_ns() + SECOND_NS)
        site.service.stands_by()
    assert site.manager.sent == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert site.manager.status == "standing by: another one leads"


def test_ready_once_every_live_collector_counts() -> None:
    """READY is sent after the first batch of each, once; files are not waited for."""
    site = Site(["ebpf", "af_packet"], seconds=0)
    assert site.turns("ebpf", "", "pcap", "ebpf") == []
    assert site.manager.status == "starting: waiting for the first counts"
    assert site.turns("af_packet", "ebpf", "af_packet") == ["READY=1"]
    assert site.manager.status == "watching"


def test_signs_of_life_come_four_times_in_an_interval() -> None:
    """While rows move, every quarter of the watchdog's interval has one, and no turn has more."""
    assert Site(seconds=40).turns(*["ebpf"] * 40).count("WATCHDOG=1") == 4


def test_a_silent_collector_ends_the_signs_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    """The worker turns, but one collector brings nothing: it is named once, and nothing is fed until it is back."""
    logs.configure(service=True)
    site = Site(["ebpf", "af_packet"])
    site.turns("ebpf", "af_packet")
    site.turns(*["ebpf"] * 20)
    assert site.turns(*["ebpf"] * 60) == []
    assert site.manager.status.startswith("stuck: nothing comes from af_packet")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["event"], one["collectors"]) for one in said] == [("collector_silent", ["af_packet"])]
    assert "WATCHDOG=1" in site.turns("af_packet")


def test_no_sign_of_life_without_a_turn() -> None:
    """A worker that hangs sends nothing: there is no other thread that would."""
    site = Site()
    site.turns("ebpf")
    site.manager.sent.clear()
    site.clock.set(site.clock.now_ns() + 1000 * SECOND_NS)
    assert site.manager.sent == []


def test_a_refused_commit_is_no_hang() -> None:
    """While the state cannot be written the manager hears so, and does not restart what a restart would not mend."""
    site = Site(seconds=40)
    site.turns("ebpf")
    for _ in range(60):
        site.clock.set(site.clock.now_ns() + 5 * SECOND_NS)
        site.manager.sent.clear()
        site.service.retrying("no room is left")
        assert site.manager.status == "the state cannot be written, trying again: no room is left"
        site.clock.set(site.clock.now_ns() + 5 * SECOND_NS)
        site.service.retrying("no room is left")
        assert site.manager.sent == ["WATCHDOG=1"]
    assert site.turns("") == []
    assert not site.manager.status.startswith("stuck")


def test_a_collector_that_failed_ends_the_run() -> None:
    """So that the manager starts the agent again, rather than have it watch nothing."""
    site = Site(["ebpf", "af_packet"])
    site.turns("ebpf", "af_packet")
    site.failures["ebpf"] = CaptureError("gone")
    assert "STOPPING=1" in site.turns("af_packet")
    assert site.stop.is_set()


def test_stopping_is_said_once_and_goes_on_being_alive() -> None:
    """From the first stop on, what is held is handed out; collectors that have ended are not missed."""
    site = Site()
    site.turns("ebpf")
    site.stop.set()
    sent = site.turns(*[""] * 60)
    assert (sent.count("STOPPING=1"), sent.count("WATCHDOG=1"), sent.count("READY=1")) == (1, 6, 0)


def test_reload_is_framed() -> None:
    """RELOADING before, READY after."""
    site = Site()
    site.turns("ebpf")
    site.manager.sent.clear()
    site.service.reloading()
    site.service.reloaded()
    assert site.manager.sent == ["RELOADING=1", "READY=1"]


def test_a_wrong_watchdog_variable_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on without."""
    logs.configure(service=True)
    service = Service(Kept(), Watchdog.of({"WATCHDOG_USEC": "soon"}, 1), DataClock(), status=lambda: "")
    service.begins(frozenset(), {}, threading.Event())
    said = json.loads(capsys.readouterr().err)
    assert (said["event"], "WATCHDOG_USEC=soon" in said["reason"]) == ("watchdog_not_fed", True)
