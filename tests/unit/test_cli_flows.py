"""`sekisho flows`: filters, groups, totals, times and files, against sums made by hand."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.times import point_ns
from agent.core.accounts import Accounts
from agent.core.clock import DAY_NS, SECOND_NS, DataClock
from agent.core.errors import StateError
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.stages import Context
from agent.store import sums as sums_module
from agent.store.asking import Question
from agent.store.flows import ask, top
from agent.store.sums import POINTS, Sums
from sinks.archive import Settings
from tests.tools.program import sekisho
from tests.tools.rows import batch_of

NOW_NS = 20_000 * DAY_NS + 12 * 3600 * SECOND_NS
TOKYO = ZoneInfo("Asia/Tokyo")


def row(n: int, **given: Any) -> dict[str, Any]:
    """One of a hundred rows of two days: several of everything."""
    end_ns = NOW_NS - n * 1200 * SECOND_NS
    base = {
        "local_address": f"10.0.{n % 3}.1",
        "remote_address": f"203.0.113.{n % 5}" if n % 2 else f"2001:db8::{n % 5:x}",
        "local_port": 5432 if n % 4 == 0 else None,
        "remote_port": 443 if n % 4 else 40000 + n,
        "protocol": 17 if n % 7 == 0 else 6,
        "initiator": (None, "local", "remote")[n % 3],
        "process": (None, "postgres", "rclone", "Rclone2")[n % 4],
        "remote_country": (None, "CN", "DE", "JP")[n % 4],
        "remote_asn": None if n % 6 == 0 else 64500 + n % 3,
        "remote_as_org": None if n % 6 == 0 else f"Example Cloud {n % 3}",
        "remote_owner": (None, "example-holdings", "other")[n % 3],
        "remote_provider": (None, "cloud-a")[n % 2],
        "store": (None, "ehr-main", "lab")[n % 3],
        "octets_out": 1_000 * (n + 1),
        "octets_in": 10 * n,
        "start_ns": end_ns - 30 * SECOND_NS,
        "end_ns": end_ns,
    }
    return base | given


ROWS = [row(n) for n in range(100)]
ALL = batch_of(ROWS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in an archive of two hosts, half of it Parquet and half journals, in small groups of rows."""
    folder = tmp_path_factory.mktemp("archive")
    context = Context(accounts=Accounts(), state_dir=folder, host="db-1", clock=DataClock(NOW_NS))
    sink = Settings(rows_per_group=8, min_free=0).build(context)
    for part in range(10):
        header = BatchHeader(agent_id="a", run_id=f"r{part // 5}", sequence=part, host=f"db-{part % 2}")
        sink.write_flows(ALL.take(np.arange(part, 100, 10)).under(header))
        if part == 4:
            sink.close()
            sink = Settings(rows_per_group=8, min_free=0).build(context)
    sink.flush()
    return folder / "archive"


def brute(test: Any) -> list[int]:
    return sorted(r["octets_out"] for r in ROWS if test(r))


QUESTIONS: list[tuple[Question, Any]] = [
    (Question(), lambda r: True),
    (Question(NOW_NS - 5 * 3600 * SECOND_NS), lambda r: r["end_ns"] >= NOW_NS - 5 * 3600 * SECOND_NS),
    (Question(until_ns=NOW_NS - 3600 * SECOND_NS), lambda r: r["end_ns"] < NOW_NS - 3600 * SECOND_NS),
    (Question(texts={"store": ("lab", "ehr-main")}), lambda r: r["store"] in ("lab", "ehr-main")),
    (Question(texts={"store": ("-",)}), lambda r: r["store"] is None),
    (Question(texts={"process": ("rclone",)}), lambda r: r["process"] == "rclone"),
    (Question(texts={"process": ("rc*",)}), lambda r: r["process"] in ("rclone", "Rclone2")),
    (Question(texts={"process": ("*", "-")}), lambda r: True),
    (Question(numbers={"protocol": (17,)}), lambda r: r["protocol"] == 17),
    (Question(numbers={"remote_asn": (64501, -1)}), lambda r: r["remote_asn"] in (64501, None)),
    (Question(organisations=("cloud 2",)), lambda r: r["remote_as_org"] == "Example Cloud 2"),
    (
        Question(numbers={"remote_asn": (64501,)}, organisations=("CLOUD 2",)),
        lambda r: r["remote_asn"] in (64501, 64502),
    ),
    (Question(ports=(5432, 40001)), lambda r: r["local_port"] == 5432 or r["remote_port"] == 40001),
    (Question(least_octets=50_000), lambda r: r["octets_out"] + r["octets_in"] >= 50_000),
]


@pytest.mark.parametrize("case", range(len(QUESTIONS)))
def test_a_question_gives_the_rows_that_pass_it(case: int, archive: Path) -> None:
    """Filters pushed down to Parquet, and the same in journals, choose what a test in plain Python chooses."""
    question, test = QUESTIONS[case]
    found = [int(o) for batch in ask(archive, question, columns=[]) for o in batch["octets_out"]]
    assert sorted(found) == brute(test)
    assert len(found) > 0


@pytest.mark.parametrize(
    "network", ["203.0.113.0/30", "2001:db8::/126", "203.0.113.3", "::ffff:0:0/96", "0.0.0.0/0"]
)
def test_networks_are_pushed_down_right(network: str, archive: Path) -> None:
    """The addresses of a network, IPv4 and IPv6, by their order in the file and again in memory."""
    import ipaddress

    net = ipaddress.ip_network(network)
    mapped = net.version == 6 and net.network_address.ipv4_mapped is not None

    def inside(text: str) -> bool:
        address = ipaddress.ip_address(text)
        return address.version == 4 if mapped else address in net

    question = Question(networks={"remote_address": (net,)})
    found = [int(o) for batch in ask(archive, question, columns=[]) for o in batch["octets_out"]]
    assert sorted(found) == brute(lambda r: inside(r["remote_address"]))


def test_filters_skip_groups_of_rows(archive: Path) -> None:
    """What Parquet is told lets it leave out most groups of rows of a narrow question."""
    question = Question(since_ns=NOW_NS - 1200 * SECOND_NS, texts={"store": ("lab",)})
    assert question.filter() is not None
    assert sum(map(len, ask(archive, question))) == len(brute(lambda r: r["end_ns"] >= NOW_NS - 1200 * SECOND_NS and r["store"] == "lab"))  # fmt: skip


def test_the_largest_and_the_newest_rows(archive: Path) -> None:
    """`top` gives the first so many by time or by amount, of all days and files."""
    newest = top(archive, Question(), 7)
    assert newest is not None
    assert newest["end_ns"].tolist() == sorted((r["end_ns"] for r in ROWS), reverse=True)[:7]
    largest = top(archive, Question(), 5, by=("octets_out", "octets_in"))
    assert largest is not None
    assert largest["octets_out"].tolist() == [100_000, 99_000, 98_000, 97_000, 96_000]
    assert top(archive, Question(texts={"store": ("none",)}), 5) is None


def test_progress_ends_at_all_there_is(archive: Path) -> None:
    """Progress never goes back, and its last word is the whole."""
    told: list[tuple[int, int]] = []
    list(ask(archive, Question(), progress=lambda done, total: told.append((done, total))))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


VALUES = {
    "remote_country": st.sampled_from([None, "JP", "DE"]),
    "remote_asn": st.sampled_from([None, 64500, 2**32 - 1]),
    "remote_address": st.sampled_from(["192.0.2.1", "2001:db8::1", "ffff:ffff::"]),
    "octets_out": st.integers(0, 2**55),
    "end_ns": st.integers(0, 40 * 365).map(lambda d: d * DAY_NS // 7),
}
BY = st.lists(
    st.sampled_from(["remote_country", "remote_asn", "remote_address", "day", "hour"]),
    max_size=3,
    unique=True,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=8), max_size=4), BY)
def test_sums_equal_sums_by_hand(parts: list[list[dict[str, Any]]], by: list[str]) -> None:
    """Any rows in any batches by any columns: every group exact to the octet, and the course adds up to it."""
    sums = Sums(by, TOKYO)
    hand: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for part in parts:
        sums.add(batch_of([{**r, "start_ns": r["end_ns"]} for r in part]))
        for r in part:
            local = datetime.fromtimestamp(r["end_ns"] // SECOND_NS, TOKYO)
            times = {
                "day": local.replace(hour=0, minute=0, second=0).isoformat(timespec="minutes"),
                "hour": local.replace(minute=0, second=0).isoformat(timespec="minutes"),
            }
            key = tuple(times.get(name, r.get(name)) for name in by)
            hand[key][0] += r["octets_out"]
            hand[key][1] += 1
    found = sums.groups()
    assert {t.key: [t.amounts["octets_out"], t.rows] for t in found} == hand
    assert [sum(t.series or ()) for t in found] == [t.amounts["octets_out"] for t in found]
    total = sums.total()
    assert total.rows == sum(map(len, parts))
    assert sum(total.series or ()) == total.amounts["octets_out"]
    assert len(total.series or ()) <= POINTS


def test_too_many_groups_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: beyond the most groups the answer is a sentence."""
    monkeypatch.setattr(sums_module, "MOST_GROUPS", 3)
    with pytest.raises(StateError, match="more than 3 different values of remote_port; group by less"):
        Sums(["remote_port"]).add(batch_of([{"remote_port": n} for n in range(5)]))


def test_a_text_that_a_dictionary_holds_twice_is_one_group() -> None:
    """Journals may join dictionaries; equal texts of different codes are still one group."""
    from agent.core.flow import Text

    batch = batch_of([{"octets_out": 1}, {"octets_out": 2}])
    twice = batch.with_columns(store=Text(np.array([0, 1], np.int32), ("a", "a")))
    sums = Sums(["store"])
    sums.add(FlowBatch.build(2, {c.name: d for c, d in twice.columns()}))
    assert [(t.key, t.amounts["octets_out"]) for t in sums.groups()] == [(("a",), 3)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", "2026-11-18T10:00:00Z"),
        ("now", "2026-11-18T12:00:00Z"),
        ("today", "2026-11-17T15:00:00Z"),
        ("yesterday", "2026-11-16T15:00:00Z"),
        ("2026-11-18", "2026-11-17T15:00:00Z"),
        ("2026-11-18T07:00", "2026-11-17T22:00:00Z"),
        ("2026-11-18 07:00:05.5", "2026-11-17T22:00:05.5Z"),
        ("2026-11-18T07:00Z", "2026-11-18T07:00:00Z"),
        ("2026-11-18T07:00+01:00", "2026-11-18T06:00:00Z"),
        ("20261118", "2026-11-17T15:00:00Z"),
    ],
)
def test_times_are_read_in_the_zone_of_the_reader(text: str, expected: str) -> None:
    """Spans, words, dates and times; without a zone they are in that of the settings."""
    now_ns = int(datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp()) * SECOND_NS
    wanted = datetime.fromisoformat(expected).timestamp()
    assert point_ns(text, "--since", now_ns, TOKYO) == int(wanted * 1e6) * 1000


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "2h ago", "-1h", "1e9", "99999-01-01"])
def test_other_times_are_refused(text: str) -> None:
    """What is no time is refused by the flag's name."""
    with pytest.raises(click.BadParameter, match="expected a span such as 2h or 7d"):
        point_ns(text, "--since", NOW_NS, None)


def _flows(archive: Path, tmp_path: Path, *arguments: str, code: int = 0) -> str:
    """What the command says, run in this process."""
    streams = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        contextlib.chdir(tmp_path),
        pytest.raises(SystemExit) as ended,
    ):
        main(["flows", "--archive", str(archive), "--since", "2000-01-01", *arguments])
    out, err = (stream.getvalue() for stream in streams)
    assert ended.value.code == code, out + err
    return out if code == 0 else err


def test_the_total_is_of_all_that_matched(archive: Path, tmp_path: Path) -> None:
    """The last line of a table counts every row, however few are shown, in lists and in sums."""
    octets = f"{sum(r['octets_out'] for r in ROWS):,} octets"
    for arguments in (
        ["--limit", "3"],
        ["--by", "remote,port", "--limit", "2"],
        ["--total"],
        ["--sort", "out"],
    ):
        said = _flows(archive, tmp_path, *arguments)
        assert octets in said
        assert "100 rows" in said
    assert "3 of 100 rows shown" in _flows(archive, tmp_path, "--limit", "3")


def test_filters_of_the_command_line_reach_the_archive(archive: Path, tmp_path: Path) -> None:
    """Each option alone gives the sum of the rows that it names."""
    for arguments, test in (
        (["--store", "lab"], lambda r: r["store"] == "lab"),
        (["--country", "cn", "--country", "JP"], lambda r: r["remote_country"] in ("CN", "JP")),
        (["--owner", "example*"], lambda r: r["remote_owner"] == "example-holdings"),
        (["--provider", "-"], lambda r: r["remote_provider"] is None),
        (["--network", "as64501"], lambda r: r["remote_asn"] == 64501),
        (["--network", "example cloud 2"], lambda r: r["remote_as_org"] == "Example Cloud 2"),
        (["--local", "10.0.2.0/24"], lambda r: r["local_address"] == "10.0.2.1"),
        (["--port", "5432"], lambda r: r["local_port"] == 5432),
        (["--protocol", "UDP"], lambda r: r["protocol"] == 17),
        (["--direction", "in"], lambda r: r["initiator"] == "remote"),
        (["--min-octets", "50kB"], lambda r: r["octets_out"] + r["octets_in"] >= 50_000),
        (["--process", "rclone", "--store", "-"], lambda r: r["process"] == "rclone" and r["store"] is None),
    ):
        told = json.loads(_flows(archive, tmp_path, *arguments, "--total", "--json"))
        assert told["octets_out"] == sum(brute(test)), arguments


def test_community_ids_stand_beside_the_rows(archive: Path, tmp_path: Path) -> None:
    """`--community-id` adds one column to each way of showing rows, with what the core computes."""
    from agent.core.community import community_ids

    wanted = sorted(map(str, community_ids(ALL)))
    lines = _flows(archive, tmp_path, "--community-id", "--json").splitlines()
    assert sorted(str(json.loads(line)["community_id"]) for line in lines) == wanted
    rows = csv.DictReader(io.StringIO(_flows(archive, tmp_path, "--community-id", "--csv")))
    assert sorted(r["community_id"] or "None" for r in rows) == wanted
    assert "community id" in _flows(archive, tmp_path, "--community-id").splitlines()[0]


def test_groups_of_time_are_in_the_zone_and_in_order(archive: Path, tmp_path: Path) -> None:
    """`--by day` names local days with their offset, oldest first."""
    outcome = sekisho(
        "--set", "time_zone=Asia/Tokyo", "flows", "--archive", archive, "--since", "2000-01-01", "--by", "day", "--json",
        home=tmp_path,
    )  # fmt: skip
    days = [json.loads(line)["day"] for line in outcome.out.splitlines()]
    assert days == sorted(days)
    assert all(day.endswith("T00:00+09:00") for day in days)


def test_csv_is_whole_or_not_there(archive: Path, tmp_path: Path) -> None:
    """Every row reads back; a question that fails leaves the file of before and nothing beside it."""
    file = tmp_path / "out" / "all.csv"
    file.parent.mkdir()
    _flows(archive, tmp_path, "--csv", str(file))
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert sorted(int(r["octets_out"]) for r in rows) == brute(lambda r: True)
    before = file.read_text()
    for arguments in (["--by", "store", "--archive", "none"], ["--sort", "out"]):
        _flows(archive, tmp_path, "--csv", str(file), *arguments, code=1 if "none" in arguments else 2)
    assert (file.read_text(), [p.name for p in file.parent.iterdir()]) == (before, ["all.csv"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--country", "Japan"], "--country Japan: expected two letters of ISO 3166 such as JP"),
        (["--protocol", "tpc"], "--protocol tpc: expected icmp, igmp, tcp, udp"),
        (["--protocol", "256"], "--protocol 256: expected"),
        (["--min-octets", "much"], "--min-octets much: expected a size such as 500 MB"),
        (["--local", "10.0.0"], "--local 10.0.0: expected an address or network"),
        (["--until", "1999-01-01"], "--until 1999-01-01 is not after --since 2000-01-01"),
        (["--csv", "--json"], "--csv and --json exclude each other"),
        (["--sort", "name"], "--sort name sorts groups; add --by"),
        (["--by", ""], "--by : expected one or several of owner, country"),
    ],
)
def test_nonsense_in_a_filter_is_named(
    arguments: list[str], said: str, archive: Path, tmp_path: Path
) -> None:
    """Each option says what it expected, exit code 2."""
    assert said in _flows(archive, tmp_path, *arguments, code=2)
