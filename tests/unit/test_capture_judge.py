"""The judge of the truth bench itself: what it calls right, listener, unknown and wrong, and exact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.capture.scenarios  # noqa: F401  declares them
from agent.core.address import parse
from agent.core.flow import FlowBatch, Text
from tests.bench.overhead_page import interval
from tests.capture import leftovers
from tests.capture.judge import Actor, Claim, Verdict, judge
from tests.capture.stage import Outcome, Tier
from tests.capture.wire import TCP, Counts

WORKER = Actor(20, "httpd", "/usr/sbin/httpd", 33, "/site/web")
MASTER = Actor(10, "httpd", "/usr/sbin/httpd", 0, "/site/web")
CLAIM = Claim((WORKER,), local_port=80, listener=(MASTER,))
NOTHING: dict[str, Any] = dict.fromkeys(("pid", "process", "executable", "uid", "cgroup"))


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({"pid": 20, "process": "httpd", "executable": "/usr/sbin/httpd", "uid": 33}, "right"),
        ({"pid": 20, "cgroup": "/site/web"}, "right"),
        ({"pid": 10, "uid": 0}, "listener"),
        ({}, "unknown"),
        ({"uid": 33, "cgroup": "/sys/fs/cgroup/site/web"}, "unknown"),
        ({"uid": 34}, "wrong"),
        ({"cgroup": "/other"}, "wrong"),
        ({"pid": 21}, "wrong"),
        ({"pid": 20, "uid": 0}, "wrong"),
        ({"process": "sshd"}, "wrong"),
    ],
)
def test_a_row_is_judged_by_all_that_it_says(said: dict[str, Any], verdict: str) -> None:
    """Every word of a row must fit one and the same process; saying nothing of it is unknown, not right."""
    assert CLAIM.judge(NOTHING | said) == verdict


@pytest.mark.parametrize(
    ("said", "verdict"), [({}, "unknown"), ({"uid": 0}, "unknown"), ({"pid": 20}, "wrong")]
)
def test_what_the_kernel_sends_is_nobodys(said: dict[str, Any], verdict: str) -> None:
    """A claim for nobody is kept by rows that name no process, and broken by those that do."""
    assert Claim(()).judge(NOTHING | said) == verdict


def rows(*said: tuple[str, int, int, int]) -> FlowBatch:
    """(local address, local port, pid, octets out) each."""
    addresses, ports, pids, octets = zip(*said, strict=True)
    n = len(said)
    zeros, remote = np.zeros(n, np.int64), parse(["198.51.100.1"] * n)
    return FlowBatch.build(
        n,
        {
            "local_address": parse(addresses), "remote_address": remote,
            "local_port": np.array(ports, np.int32), "protocol": np.full(n, TCP, np.uint8),
            "pid": np.array(pids), "process": Text.of(["httpd" if pid >= 0 else None for pid in pids]),
            "octets_out": np.array(octets), "packets_out": zeros + 1, "octets_in": zeros, "packets_in": zeros,
            "content_octets_out": zeros, "flows": zeros, "start_ns": zeros, "end_ns": zeros,
        },
    )  # fmt: skip


def test_amounts_of_the_host_alone_are_compared() -> None:
    """Rows of other local ends are left out; a single octet too much is not exact; octets go to their verdicts."""
    batch = rows(("192.0.2.1", 80, 20, 100), ("192.0.2.1", 80, 10, 50), ("192.0.2.1", 80, -1, 7), ("192.0.2.2", 80, 99, 1000))  # fmt: skip
    found = judge(batch, Counts(157, 3), {"192.0.2.1"}, (TCP,), [CLAIM])
    assert found.exact
    assert found.octets_by == {"right": 100, "listener": 50, "unknown": 7}
    assert found.wrong == ()
    assert not judge(batch, Counts(156, 3), {"192.0.2.1"}, (TCP,), [CLAIM]).exact


def test_a_wrong_process_is_told_with_what_it_should_have_been() -> None:
    """The octets of a row with another process are wrong, and the row is told."""
    found = judge(rows(("192.0.2.1", 80, 21, 100)), Counts(100, 1), {"192.0.2.1"}, (TCP,), [CLAIM])
    assert found.octets_by == {"wrong": 100}
    assert "'pid': 21" in found.wrong[0]
    assert "pid=20" in found.wrong[0]


def test_the_interval_of_equal_ratios_has_no_width_and_that_of_others_holds_the_median() -> None:
    """The bootstrap gives the same answer every time."""
    assert interval([0.9] * 20) == (0.9, 0.9, 0.9)
    spread = [0.8 + n / 50 for n in range(20)]
    middle, low, high = interval(spread)
    assert low < middle < high
    assert middle == pytest.approx(0.99)
    assert interval(spread) == (middle, low, high)


TRUE = Counts(1000, 10, 500, 5, 600)


@pytest.mark.parametrize(
    ("scenario", "counted", "by", "kept"),
    [
        ("plain", TRUE, "right", True),
        ("plain", Counts(999, 10, 500, 5, 600), "right", False),
        ("plain", TRUE, "unknown", False),
        ("plain", TRUE, "wrong", False),
        ("no_heads", Counts(980, 9, 500, 5, 600), "right", True),
        ("no_heads", Counts(980, 9, 500, 5, 599), "right", False),
        ("closed", Counts(948, 9, 448, 4, 600), "right", True),
        ("closed", TRUE, "right", True),
        ("closed", Counts(947, 9, 448, 4, 600), "right", False),
        ("closed", Counts(948, 9, 448, 4, 548), "right", False),
        ("closed", Counts(1000, 10, 500, 4, 600), "right", False),
        ("unseen", Counts(0, 0, 0, 0, 0), "right", True),
        ("unseen", Counts(1001, 10, 500, 5, 600), "right", False),
        ("nobody", TRUE, "unknown", True),
        ("nobody", TRUE, "wrong", False),
    ],
)
def test_a_promise_is_kept_or_broken(scenario: str, counted: Counts, by: str, kept: bool) -> None:
    """Exact but where the tier says why not, never above the truth, and a process wherever the tier names one."""
    tier = Tier(
        "tier",
        names=True,
        headers_missing={"no_heads": ""},
        time_wait=frozenset({"closed"}),
        inexact={"unseen": ""},
        nameless={"nobody": ""},
    )
    outcome = Outcome(scenario, "tier", verdicts={4: Verdict(TRUE, counted, {by: 1})})
    assert (tier.kept(outcome) == "") is kept


@pytest.mark.parametrize(
    ("scenario", "family", "resets", "missing", "kept"),
    [
        ("plain", 6, 3, Counts(180, 3), True),
        ("plain", 6, 3, Counts(60, 1), True),
        ("plain", 6, 3, Counts(), True),
        ("plain", 6, 2, Counts(180, 3), False),
        ("plain", 6, 3, Counts(180, 2), False),
        ("plain", 6, 3, Counts(60, 1, 60, 1), False),
        ("plain", 6, 3, Counts(60, 1, 0, 0, 1), False),
        ("plain", 4, 3, Counts(40, 1), False),
        ("closed", 6, 1, Counts(60 + 72, 2, 72, 1), True),
        ("closed", 6, 0, Counts(60 + 72, 2, 72, 1), False),
    ],
)
def test_resets_of_no_connection_may_be_missing(
    scenario: str, family: int, resets: int, missing: Counts, kept: bool
) -> None:
    """As many as the peer counted and no more, whole packets of headers without options, in the families that are named."""
    tier = Tier("tier", unseen_resets=frozenset({6}), time_wait=frozenset({"closed"}))
    verdict = Verdict(TRUE, TRUE - missing, {"right": 1}, resets=resets)
    assert (tier.kept(Outcome(scenario, "tier", verdicts={family: verdict})) == "") is kept


@pytest.mark.parametrize(
    ("scenario", "missing", "kept"),
    [
        ("sendfile", Counts(72, 1, 1656, 20), True),
        ("sendfile", Counts(0, 0, 84, 1), True),
        ("sendfile", Counts(), True),
        ("sendfile", Counts(72, 1, 21 * 72, 21), False),
        ("sendfile", Counts(4 * 72, 4), False),
        ("sendfile", Counts(73, 1, 0, 0, 1), False),
        ("sendfile", Counts(1500, 1), False),
        ("sendfile", Counts(-72, -1), False),
        ("sendmmsg", Counts(0, 0, 84, 1), False),
    ],
)
def test_acknowledgements_after_the_end_may_be_missing(scenario: str, missing: Counts, kept: bool) -> None:
    """A few of TCP, headers and options alone, where the tier says so; nothing of UDP, no content, never too many."""
    true = Counts(5_252_803, 3_511, 133_928, 1_000, 5_000_003)
    outcome = Outcome(scenario, "tier", verdicts={6: Verdict(true, true - missing, {"right": 1})})
    assert (Tier("tier", late_acks=True).kept(outcome) == "") is kept
    assert (Tier("tier").kept(outcome) == "") is (missing == Counts())


def test_a_fault_that_the_scenario_itself_finds_breaks_the_promise() -> None:
    """What a scenario says against the rows stands, whatever the amounts."""
    outcome = Outcome(
        "plain", "tier", verdicts={4: Verdict(TRUE, TRUE, {"right": 1})}, fault="not the store's"
    )
    assert Tier("tier").kept(outcome) == "not the store's"


def test_leftovers_are_those_of_processes_that_are_gone(tmp_path: Path) -> None:
    """A name with the number of a process that lives is left alone, and so is a name of another kind."""
    gone, lives = 2**22 + 1, os.getpid()  # numbers of processes end at 2**22 (PID_MAX_LIMIT)
    for name in (f"skh{gone}x0", f"skp{lives}x3", "skh", "mine"):
        (tmp_path / name).touch()
    found = leftovers.of_the_dead(tmp_path, leftovers.NAMESPACE)
    assert [place.name for place in found] == [f"skh{gone}x0"]
