"""Memory on endless input: three times the rows take no more of it, and what found no place is counted."""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core import address
from agent.core.accounts import Accounts
from agent.core.clock import DataClock
from agent.core.flow import BatchHeader, FlowBatch, Text
from agent.deciding import LocalDecide
from agent.detection import cube, facts, keys, rules
from agent.detection.detector import Detector
from agent.pipeline import QUEUE_BATCHES, QUEUE_ROWS, _Waiting
from agent.policy.model import Rule
from agent.roles import Detecting
from agent.seal import MAX_ROWS, STORE_LANE, Sealer
from agent.store.state import State
from collectors.flowtable import flows
from tests.tools.places import ROOT
from tests.tools.program import environment
from tests.tools.recount import Sent
from tests.tools.rows import batch_of
from tests.tools.transfers import GB, T0, Run, policy, sent
from tests.unit.test_flows import columns, make, udp

STEP = 600


def weight(thing: Any, seen: set[int] | None = None) -> int:
    """Octets of the arrays and texts and places of the containers that a thing holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type):
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, str | bytes):
        return len(thing)
    if isinstance(thing, dict):
        return sum(8 + weight(k, seen) + weight(v, seen) for k, v in thing.items())
    if isinstance(thing, list | tuple | set | frozenset):
        return sum(8 + weight(one, seen) for one in thing)
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return sum(weight(getattr(thing, name, None), seen) for name in {*slots, *getattr(thing, "__dict__", ())})


def elsewhere(step: int) -> FlowBatch:
    """Rows of one store at one moment, each to an address and a network of its own that nobody has seen."""
    batch = sent([Sent("ehr", 64500, T0, T0, 100)] * STEP)
    number = np.arange(step * STEP, (step + 1) * STEP)
    return batch.with_columns(
        remote_address=address.from_v4((number + 2**24).astype(np.uint32)),
        remote_asn=number + 1,
        remote_as_org=Text(np.arange(STEP, dtype=np.int32), tuple(f"Example {n}" for n in number)),
    )


def test_a_detector_that_hears_of_new_networks_without_end_stays_as_large_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All at one moment, so that no window moves on: nothing grows once the tables are full, and no octet is missing."""
    for module, name, limit in (
        (cube, "PATHS", 512),
        (cube, "DETAILS", 512),
        (facts, "ADDRESSES", 4_096),
        (facts, "LEDGER_WAITS", 1_024),
        (facts, "_PIECES_WAIT", 8),
        (facts, "_LEDGER_KEYS", 256),
        (rules, "_REMEMBERED", 64),
        (keys, "TEXTS", 4_096),
    ):
        monkeypatch.setattr(module, name, limit)
    made = Run(Detector(policy(Rule(id="bulk", over=1_000 * GB, window="1h")), None))
    sizes = []
    for step in range(49):
        made.heard(made.detector.take(elsewhere(step), T0))
        sizes.append(weight(made.detector))
    # Buckets gather sixteen pieces before they join them, so sizes go up and down.
    assert max(sizes[33:]) <= max(sizes[17:33])
    made.heard(made.detector.finish())
    assert sum(row.content_octets_out for row in made.ledger) == 49 * STEP * 100
    assert {name: made.reasons[name] > 0 for name in ("rows_past_path_limit", "texts_past_limit")} == {
        "rows_past_path_limit": True,
        "texts_past_limit": True,
    }


def test_what_found_no_place_is_counted_and_told_once(tmp_path: Path) -> None:
    """Rows, flows and octets past the limit of networks; people are told the first time, with the setting to change."""
    clock = DataClock(T0)
    with State.open(tmp_path / "state.db", clock=clock) as state:
        detector = Detector(policy(Rule(id="bulk", over=1_000 * GB, window="1h")), None, most_paths=1_024)
        decide = LocalDecide(detector, state, Accounts(), clock, "db-1", notice_sinks=("paper",))
        decide.restore()
        for step in range(3):
            decide.take([elsewhere(step).with_header(run_id="r", sequence=step)], T0)
        beyond = 3 * STEP - 1_024
        told = [state.deliveries.notice(d).event for d in state.deliveries.heads("paper")]
    assert {k: n for k, n in decide.past_limits.items() if "path" in k} == {
        "rows_past_path_limit": beyond,
        "flows_past_path_limit": beyond,
        "octets_out_past_path_limit": beyond * 140,
        "octets_in_past_path_limit": beyond * 40,
    }
    assert [(e.name, e.detail["setting"], e.detail["rows_past_path_limit"]) for e in told if e] == [
        ("detector_full", "detect.paths", 2 * STEP - 1_024)
    ]


def test_a_detector_of_many_hosts_keeps_a_million_networks_apart() -> None:
    """As its settings say; one of a host by itself keeps fewer."""
    rules_of = policy(Rule(id="bulk", over=1_000 * GB, window="1h"))
    limits = [
        Detector(rules_of, None, most_paths=most)._cube.paths.limit for most in (Detecting().paths, None)
    ]
    assert limits == [1_000_000, 65_536]


def test_what_waits_to_be_sealed_knows_no_text_of_rows_that_are_gone() -> None:
    """After many full batches the dictionary of the rest is that of the rest."""
    sealer = Sealer(BatchHeader(), Accounts())
    for turn in range(6):
        rows = [{"store": "a", "process": f"p{turn}-{n}", "local_port": n} for n in range(MAX_ROWS + 10)]
        list(sealer.add(batch_of(rows), 0))
    (held,) = sealer._rows[STORE_LANE]
    assert (len(held), len(held.text("process").values)) == (60, 60)


def test_the_queue_holds_rows_and_not_batches() -> None:
    """Large batches fill it as many small ones do; what was put comes out in order."""
    waiting = _Waiting(QUEUE_BATCHES)
    large = batch_of([{"local_port": n} for n in range(8 * QUEUE_ROWS)])
    put = 0
    with pytest.raises(queue.Full):
        while True:
            waiting.put_nowait((str(put), large))
            put += 1
    assert put == 4
    assert [waiting.get_nowait()[0] for _ in range(put)] == ["0", "1", "2", "3"]
    assert waiting.empty()


def test_a_flow_table_is_emptied_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a capture no batch is larger than a piece, and together they are what one flush gives."""
    packets = columns([udp(n / 1000, ports=(5000, 6000 + n)) for n in range(50)])
    whole, parts = make(), make()
    whole.add(packets)
    parts.add(packets)
    expected = list(whole.flush().rows())
    monkeypatch.setattr(flows, "_PIECE", 16)
    batches = list(parts.drain())
    assert [len(b) for b in batches] == [16, 16, 16, 2]
    assert [row for b in batches for row in b.rows()] == expected


SWALLOWED = """
import ctypes, signal, sys, time
import agent.cli
def work(**_):
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()
    time.sleep(30)
agent.cli.cli.main = work
agent.cli.main()
"""


def test_a_ctrl_c_inside_a_callback_from_c_is_not_lost(tmp_path: Path) -> None:
    """What is raised there goes nowhere, by Python's rules: the program ends with 130 all the same, without a traceback."""
    line = [sys.executable, "-c", SWALLOWED]
    done = subprocess.run(
        line, env={**environment(tmp_path), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "sekisho: interrupted\n")
