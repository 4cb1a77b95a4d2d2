"""Alerts of a service to which no sink was given: they stand in its log."""

from __future__ import annotations

import json

import pytest

from agent import config, logs
from agent.cli.agent import logged_alerts
from agent.cli.logged import LoggedAlerts
from tests.tools.notices import event, opened


def test_an_alert_is_one_line_with_its_case(capsys: pytest.CaptureFixture[str]) -> None:
    """Title, case and severity, as a warning; events are logged where they arise and not again."""
    logs.configure(service=True)
    sink = LoggedAlerts("en", None)
    notice = opened()
    sink.write_notice(notice)
    sink.write_notice(event())
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert notice.case is not None
    assert (line["event"], line["level"], line["case"]) == ("alert_raised", "warning", notice.case.id)
    assert line["title"] and "\n" not in line["title"]


@pytest.mark.parametrize(
    ("sinks", "logged"),
    [
        ({}, True),
        ({"jsonl": {"file": "/nowhere/flows.jsonl", "notices": False}}, True),
        ({"stdout": {}}, False),
    ],
)
def test_only_where_no_sink_takes_alerts(sinks: dict[str, object], logged: bool) -> None:
    """A sink of flows alone does not count."""
    loaded = config.load(environ={"SEKISHO_CONFIG": "/dev/null"}, given=[("sinks", sinks)])
    assert bool(logged_alerts(loaded)) == logged
