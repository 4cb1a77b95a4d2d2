"""Every collector, enricher and sink keeps the contract of agent/core/stages.py. New ones are found by themselves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent import plugins
from agent.core.accounts import Accounts, Amounts
from agent.core.flow import BY_NAME, FlowBatch, concat
from agent.core.stages import Collector, Context, Enricher, Sink
from tests.contract.samples import prepare, settings_of
from tests.tools.notices import opened
from tests.tools.rows import batch_of

STAGES = [(room, name) for room in plugins.ROOMS for name in plugins.names(room)]
COLLECTORS = [name for room, name in STAGES if room == "collectors"]
LIVE = ("af_packet", "conntrack", "ebpf", "tc")
"""They need a kernel to listen to: tests/live."""
ENRICHERS = [name for room, name in STAGES if room == "enrichers"]
SINKS = [name for room, name in STAGES if room == "sinks"]

ROWS: list[dict[str, Any]] = [
    {"remote_address": "203.0.113.7", "store": None},
    {"remote_address": "10.1.2.3", "local_port": None, "initiator": "remote"},
    {
        "remote_address": "2001:db8::7",
        "local_address": "2001:db8:1::1",
        "process": "postgres",
        "octets_out": 2**40,
    },
    {"remote_address": "224.0.0.251", "protocol": 17, "remote_port": 5353},
]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    prepare(tmp_path)
    (tmp_path / "state").mkdir()
    return Context(Accounts(), tmp_path / "state", host="db-01")


def _build(room: str, name: str, context: Context) -> Any:
    settings = plugins.settings_class(room, name)
    return settings.model_validate(settings_of(room, name, context.state_dir.parent)).build(context)


@pytest.mark.parametrize(("room", "name"), STAGES)
def test_building_a_stage_touches_nothing(room: str, name: str, context: Context) -> None:
    """A stage is built without writing a file (but an enricher's cache), a socket or a thread."""

    def files() -> dict[Path, int]:
        found = (p for p in context.state_dir.parent.rglob("*") if p.is_file() and "cache" not in p.parts)
        return {p: p.stat().st_mtime_ns for p in found}

    before = files()
    handles, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    stage = _build(room, name, context)
    after = files()
    assert (stage.name, after, threading.active_count()) == (name, before, threads)
    if room != "enrichers":
        assert len(list(Path("/proc/self/fd").iterdir())) == handles


@pytest.mark.parametrize(("room", "name"), STAGES)
def test_an_unknown_setting_is_refused(room: str, name: str, tmp_path: Path) -> None:
    """A stage's settings refuse a key that they do not know."""
    given = {**settings_of(room, name, tmp_path), "no_such_setting": 1}
    with pytest.raises(ValidationError, match="no_such_setting"):
        plugins.settings_class(room, name).model_validate(given)


@pytest.mark.parametrize(("room", "name"), STAGES)
def test_every_setting_says_what_it_does(room: str, name: str) -> None:
    """No setting of a stage stands without a description."""
    fields = plugins.settings_class(room, name).model_fields
    assert [key for key, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("name", [c for c in COLLECTORS if c not in LIVE])
def test_a_collector_accounts_for_all_it_yields(name: str, context: Context) -> None:
    """What a collector counts as captured is what it yields, and nothing stays behind."""
    collector: Collector = _build("collectors", name, context)
    rows = concat(list(collector.collect(threading.Event())))
    account = context.accounts.read()
    assert len(rows) > 0
    assert account.captured == rows.amounts()
    assert account.in_memory == rows.amounts()
    assert account.residue == Amounts()


@pytest.mark.parametrize("name", [c for c in COLLECTORS if c not in LIVE])
def test_a_stopped_collector_yields_what_it_holds_and_ends(name: str, context: Context) -> None:
    """With stop set, collecting ends by itself and leaves no residue."""
    stop = threading.Event()
    stop.set()
    collector: Collector = _build("collectors", name, context)
    rows = concat(list(collector.collect(stop)))
    assert context.accounts.read().captured == rows.amounts()


@pytest.mark.parametrize("name", ENRICHERS)
def test_an_enricher_changes_only_what_it_adds(name: str, context: Context) -> None:
    """An enricher keeps rows, order, amounts and every column that it does not declare."""
    enricher: Enricher = _build("enrichers", name, context)
    batch = batch_of(ROWS)
    richer = enricher.enrich(batch)
    assert enricher.adds <= BY_NAME.keys()
    assert enricher.reads <= BY_NAME.keys()
    kept = [n for n in BY_NAME if n not in enricher.adds]
    assert [{n: row[n] for n in kept} for row in richer.rows()] == [
        {n: row[n] for n in kept} for row in batch.rows()
    ]


@pytest.mark.parametrize("name", ENRICHERS)
def test_an_enricher_takes_an_empty_batch_and_names_its_versions(name: str, context: Context) -> None:
    """No rows give no rows; versions are texts; a reload without a change says so."""
    enricher: Enricher = _build("enrichers", name, context)
    assert len(enricher.enrich(FlowBatch.empty())) == 0
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in enricher.versions().items())
    assert enricher.reload() is False


@pytest.mark.parametrize("name", [s for s in SINKS if s not in ("webhook", "kafka", "syslog")])
def test_a_sink_takes_what_it_says_it_takes(
    name: str, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sink takes flows or notices, and closing it twice is harmless."""
    sink: Sink = _build("sinks", name, context)
    assert sink.takes_flows or sink.takes_notices
    if sink.takes_flows:
        sink.write_flows(batch_of(ROWS))
    if sink.takes_notices:
        sink.write_notice(opened())
    sink.flush()
    sink.close()
    sink.close()
    written = [
        p
        for p in context.state_dir.parent.rglob("*")
        if p.is_file() and p.name not in ("secret", "sample.pcap", "access.log")
    ]
    assert written or capsys.readouterr().out


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    """A stage that does not exist is refused with a name that does."""
    with pytest.raises(LookupError, match="did you mean af_packet"):
        plugins.settings_class("collectors", "af_paket")
