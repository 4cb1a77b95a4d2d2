"""The pages of metrics of running roles: every metric of the table is on its page, with the figures that the test knows."""

from __future__ import annotations

import socket
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent import config, figures
from agent.core.clock import MINUTE_NS
from agent.core.kafka import Connection
from agent.core.stages import Collector, Context
from agent.metrics import METRICS, Role
from agent.metrics_server import Served
from agent.runtime import Runtime
from sinks.kafka import KafkaCarrier
from tests.kafka.test_archive_role import Sent, _flags
from tests.tools.fleet import POLICY, FakeAgent, Program, now_ns, theft, until
from tests.tools.sending_run import Steps, marks

SELDOM = frozenset(
    (
        "sekisho_capture_excluded_flows_total",
        "sekisho_capture_excluded_octets_total",
        "sekisho_capture_lost_frames_total",
        "sekisho_capture_unobserved_seconds_total",
        "sekisho_capture_unexplained_share",
        "sekisho_capture_unexplained_octets",
        "sekisho_detect_unexplained_share",
        "sekisho_detect_unexplained_share_most",
        "sekisho_detect_unexplained_agents",
    )
)
"""Metrics whose reasons are the collector's own, or that need a collector which compares: they stand there from the first time on."""

Page = Mapping[str, Mapping[tuple[str, ...], float]]
"""Sample -> values of its labels -> value."""


def _page(address: str) -> Page:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name][tuple(sample.labels.values())] = sample.value
    return found


def _wanted(role: Role) -> set[str]:
    suffix = {"counter": "_total", "gauge": "", "histogram": "_count"}
    return {m.name + suffix[m.kind] for m in METRICS if role in m.roles} - SELDOM


def _address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def test_the_agents_page(kafka: Connection, tmp_path: Path) -> None:
    """What was captured is delivered to the octet, nothing is dropped, and the residue is 0."""
    settings = {
        "state_dir": str(tmp_path / "state"), "host": "db-1", "enrichers": {"asset": {}}, "policy": [],
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
    }  # fmt: skip
    (tmp_path / "sekisho.yaml").write_text(yaml.safe_dump(settings))
    loaded = config.load(tmp_path / "sekisho.yaml", environ={})

    def build(context: Context) -> Mapping[str, Collector]:
        return {"steps": Steps(4, context.accounts)}

    with (
        Runtime(loaded, build_collectors=build, carrier=KafkaCarrier(kafka)) as run,
        Served("127.0.0.1:0", lambda: figures.of_agent(run)) as served,
    ):
        run.go()
        page = _page(served.address)
    assert _wanted("agent") <= page.keys()
    octets = sum(marks(4))
    for name in ("capture_octets_total", "seal_octets_total", "spool_delivered_octets_total"):
        assert page[f"sekisho_{name}"]["out",] == octets, name
    assert set(page["sekisho_account_residue_octets"].values()) == {0.0}
    assert set(page["sekisho_spool_dropped_octets_total"].values()) == {0.0}
    assert page["sekisho_capture_collector_running"] == {("steps",): 1.0}
    assert abs(page["sekisho_send_last_acknowledged_timestamp_seconds"][()] * 1e9 - now_ns()) < MINUTE_NS


def test_the_detectors_page(kafka: Connection, tmp_path: Path) -> None:
    """Rows, refusals by reason, lag, and how long each alert took since the row that passed the threshold."""
    sent, agent, address = Sent(kafka), FakeAgent("db-1"), _address()
    for _ in range(3):
        sent.send(agent, agent.message(theft(now_ns() - 10**10, 10**9, 4)))
    sent.foreign()
    sent.flush()
    (tmp_path / "policy.yaml").write_text(POLICY)
    more = {"metrics.listen": address, "policy": str(tmp_path / "policy.yaml"), "enrichers": "{asset: {}}"}
    flags = _flags(tmp_path / "d", kafka, **more)
    with Program(flags, tmp_path / "d" / "log", command=("detect",)) as program:
        until(lambda: _page(address).get("sekisho_detect_rows_total", {}).get((), 0) == 12, "rows", program)
        until(lambda: _page(address).get("sekisho_detect_lag_messages", {}).get(()) == 0, "lag", program)
        page = _page(address)
        assert program.stop() == 0
    sent.close()
    assert _wanted("detector") <= page.keys()
    assert page["sekisho_detect_leader"][()] == 1
    refused = page["sekisho_detect_dead_messages_total"]
    assert {reason: n for (reason,), n in refused.items() if n} == {"foreign": 1}
    alerts = page["sekisho_detect_alert_delay_seconds_count"][()]
    assert alerts >= 1
    assert 0 <= page["sekisho_detect_alert_delay_seconds_sum"][()] / alerts < 60


def test_the_pages_of_those_who_copy(kafka: Connection, tmp_path: Path) -> None:
    """Rows and traffic as they were sent, duplicates apart, no lag; the republisher counts its records too."""
    sent, agent = Sent(kafka), FakeAgent("db-1")
    for _ in range(3):
        sent.batch(agent, 4, again=1)
    sent.flush()
    for command, role in (("archive", "archiver"), ("republish", "republisher")):
        address = _address()
        flags = _flags(tmp_path / command, kafka, **{"metrics.listen": address, "republish.ocsf": "true"})
        with Program(flags, tmp_path / command / "log", command=(command,)) as program:
            until(lambda: _page(address).get("sekisho_copy_rows_total", {}).get((), 0) == 12, "rows", program)  # noqa: B023
            until(lambda: _page(address).get("sekisho_copy_lag_messages", {}).get(()) == 0, "lag", program)  # noqa: B023
            page = _page(address)
            assert program.stop() == 0
        assert _wanted(role) <= page.keys()  # type: ignore[arg-type]
        assert page["sekisho_copy_duplicate_messages_total"][()] == 3
        assert page["sekisho_copy_traffic_octets_total"]["out",] == sum(row[3] for row in sent.rows)
        assert page["sekisho_copy_stopped"][()] == 0
        if role == "republisher":
            assert page["sekisho_republish_records_total"][()] == 12
    sent.close()
