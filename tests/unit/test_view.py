"""The live view's tallies."""

from __future__ import annotations

from agent.core.clock import SECOND_NS, DataClock
from agent.view import View
from tests.tools.rows import batch_of

NOW_S = 1_800_000_000


def _view() -> View:
    return View(DataClock(NOW_S * SECOND_NS))


def test_a_row_is_spread_over_the_seconds_it_lasted() -> None:
    """400 octets of four seconds are 100 in each; the remainder goes to the last."""
    view = _view()
    row = {
        "remote_scope": "external",
        "octets_out": 401,
        "start_ns": (NOW_S - 5) * SECOND_NS,
        "end_ns": (NOW_S - 2) * SECOND_NS,
    }
    view.observe(batch_of([row]))
    assert view.read().series_out[-7:] == (0, 0, 100, 100, 100, 101, 0)


def test_destinations_are_ranked_and_internal_traffic_stands_apart() -> None:
    """External lines come most octets first, one for each network and owner; internal octets are a sum of their own."""
    view = _view()
    view.observe(
        batch_of(
            [
                {
                    "remote_scope": "external",
                    "remote_asn": 64500,
                    "remote_as_org": "A",
                    "octets_out": 10,
                    "store": "s",
                },
                {"remote_scope": "external", "remote_asn": 64501, "remote_as_org": "B", "octets_out": 30},
                {"remote_scope": "external", "remote_asn": 64500, "remote_as_org": "A", "octets_out": 5},
                {"remote_scope": "private", "octets_out": 7},
            ]
        )
    )
    reading = view.read()
    assert [(d.network, d.octets_out, d.stores) for d in reading.destinations] == [
        ("AS64501 B", 30, set()),
        ("AS64500 A", 15, {"s"}),
    ]
    assert (reading.internal_out, reading.octets_out) == (7, 52)


def test_the_number_of_lines_is_bounded() -> None:
    """Beyond 5,000 lines all others share one, and nothing is lost from the sums."""
    view = _view()
    for start in range(0, 6000, 1000):
        view.observe(
            batch_of(
                [
                    {"remote_scope": "external", "remote_asn": 1 + start + n, "octets_out": 1}
                    for n in range(1000)
                ]
            )
        )
    reading = view.read(top=10_000)
    assert (len(reading.destinations), sum(d.octets_out for d in reading.destinations)) == (5001, 6000)
