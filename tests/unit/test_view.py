"""The live view's tallies."""

from __future__ import annotations

from agent.core.clock import SECOND_NS, DataClock
from agent.view import SORTS, View
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
    view.observe([batch_of([row])])
    assert view.read().series_out[-7:] == (0, 0, 100, 100, 100, 101, 0)


def test_destinations_are_ranked_and_internal_traffic_stands_apart() -> None:
    """External lines come most octets first, one for each network and owner; internal octets are a sum of their own."""
    view = _view()
    view.observe(
        [
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
        ]
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
            [
                batch_of(
                    [
                        {"remote_scope": "external", "remote_asn": 1 + start + n, "octets_out": 1}
                        for n in range(1000)
                    ]
                )
            ]
        )
    reading = view.read(top=10_000)
    assert (len(reading.destinations), sum(d.octets_out for d in reading.destinations)) == (5001, 6000)


def _network(n: int, octets: int, **given: object) -> dict[str, object]:
    end_ns = (NOW_S - 1) * SECOND_NS
    row = {
        "remote_scope": "external",
        "remote_asn": 64500 + n,
        "octets_out": octets,
        "end_ns": end_ns,
        "start_ns": end_ns,
    }
    return row | given


def test_a_reading_is_a_copy() -> None:
    """What was read stays as it was while traffic goes on: the screen is drawn by another thread."""
    view = _view()
    view.observe([batch_of([_network(0, 10, store="a")])])
    (line,) = view.read().destinations
    had = (line.octets_out, dict(line.recent), set(line.stores))
    view.observe([batch_of([_network(0, 5, store="b")])])
    assert (line.octets_out, dict(line.recent), line.stores) == had


def test_destinations_come_in_the_order_asked_for() -> None:
    """By rate, total, amount in, name, place and store; ties by octets out."""
    old = {"start_ns": (NOW_S - 30) * SECOND_NS, "end_ns": (NOW_S - 30) * SECOND_NS}
    view = _view()
    view.observe(
        [
            batch_of(
                [
                    _network(2, 100, octets_in=1, remote_country="CN", store="z"),
                    _network(1, 900, octets_in=9, remote_country="DE", **old),
                    _network(3, 50, octets_in=5, remote_country=None, store="a", flows=7),
                ]
            )
        ]
    )
    orders = {by: [d.network for d in view.read(3, by).destinations] for by in SORTS}
    one, two, three = "AS64501", "AS64502", "AS64503"
    assert orders == {
        "out": [one, two, three],
        "rate": [two, three, one],
        "minute": [one, two, three],
        "in": [one, three, two],
        "flows": [three, one, two],
        "country": [two, one, three],
        "network": [one, two, three],
        "owner": [one, two, three],
        "store": [three, two, one],
    }
