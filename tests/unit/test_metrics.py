"""The page of metrics: what is on it, that it parses, and that no reader of it can hold up or break the role."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from agent.metrics import METRICS, MOST_VALUES, Histogram, Reading
from agent.metrics_server import MOST_READERS, Served


def _reading() -> Reading:
    reading = Reading("agent")
    reading.put("capture_flows", 3)
    reading.put("capture_octets", 1000, "out")
    reading.put("capture_octets", 2**60, "in")
    return reading


@pytest.fixture
def served() -> Iterator[Served]:
    with Served("127.0.0.1:0", _reading) as made:
        yield made


def _page(address: str, path: str = "/metrics", accept: str = "text/plain") -> str:
    asked = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_page_parses_and_holds_the_figures(served: Served) -> None:
    """Counters, labels and values come back as they were put, and the process tells its own beside them."""
    families = {f.name: f for f in text_string_to_metric_families(_page(served.address))}
    found = {
        (s.name, *s.labels.values()): s.value
        for name, family in families.items()
        if name.startswith("sekisho")
        for s in family.samples
    }
    assert found == {
        ("sekisho_capture_flows_total",): 3,
        ("sekisho_capture_octets_total", "out"): 1000,
        ("sekisho_capture_octets_total", "in"): 2**60,
    }
    assert "process_resident_memory_bytes" in families


def test_a_monitor_that_asks_for_openmetrics_gets_it(served: Served) -> None:
    """The form follows the Accept header; OpenMetrics ends in # EOF."""
    assert _page(served.address, accept="application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


def test_other_paths_are_not_there(served: Served) -> None:
    """Nothing but the page is served."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        _page(served.address, "/debug")
    caught.value.close()
    assert caught.value.code == 404


def test_silent_readers_take_only_their_places(served: Served) -> None:
    """As many readers as there are places, all silent: one more is turned away at once, and later ones are served again."""
    host, _, port = served.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_READERS):
            stack.enter_context(socket.create_connection((host, int(port))))
        answers = set()
        for _ in range(50):
            with (
                socket.create_connection((host, int(port)), timeout=10) as more,
                contextlib.suppress(OSError),
            ):
                answers.add(more.recv(64).split(b"\r\n")[0])
                break
        assert answers == {b"HTTP/1.0 503 Service Unavailable"}


def test_a_fault_in_reading_is_an_answer() -> None:
    """A reading that raises is told as 500 and logged; the next works."""
    faults = [True]

    def read() -> Reading:
        if faults and faults.pop():
            raise RuntimeError("broken")
        return _reading()

    with capture_logs() as logs, Served("127.0.0.1:0", read) as made:
        with pytest.raises(urllib.error.HTTPError) as caught:
            _page(made.address)
        caught.value.close()
        assert caught.value.code == 500
        assert "sekisho_capture_flows_total 3.0" in _page(made.address)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["metrics_not_read"]


def test_an_address_that_is_taken_costs_the_page_alone(served: Served) -> None:
    """A second role on the same port is told which setting to change, and goes on."""
    with capture_logs() as logs:
        second = Served(served.address, _reading)
    assert second.address == ""
    assert [(e["event"], e["setting"]) for e in logs] == [("metrics_not_served", "metrics.listen")]
    second.close()


def test_labels_are_bounded() -> None:
    """Past the most values of a label the rest is summed as other."""
    reading = Reading("agent")
    for number in range(MOST_VALUES + 10):
        reading.put("capture_lost_frames", 2, f"reason_{number}")
    values = reading.values["sekisho_capture_lost_frames"]
    assert len(values) == MOST_VALUES + 1
    assert values["other",] == 20


def test_a_histogram_counts_by_upper_bound() -> None:
    """Counts are cumulative, bounds belong to their bucket, and the sum is that of all."""
    histogram = Histogram(bounds=(1.0, 5.0))
    for seconds in (0.5, 1.0, 4.0, 60.0):
        histogram.observe(seconds)
    assert histogram.read() == ([("1.0", 2.0), ("5.0", 3.0), ("+Inf", 4.0)], 65.5)


def test_names_follow_one_rule() -> None:
    """Each name is unique, says its unit last, and no label could hold what comes from outside."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels == {"version", "role", "collector", "direction", "reason", "place", "line", "column"}
    for metric in METRICS:
        assert metric.meaning.endswith("."), metric.name
        assert not metric.name.endswith("_total"), metric.name
