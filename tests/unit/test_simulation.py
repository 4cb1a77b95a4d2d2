"""A simulated fleet is the same whenever it is made, says what it is, and hides exactly what it tells."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.core.address import NetworkSet
from agent.core.flow import FlowBatch
from agent.core.kafka import Connection
from agent.core.message import HEADER_KEY, SIGNATURE_KEY
from agent.receiving.checking import Checker, Sealed
from agent.simulation.agents import Fleet, Sent
from agent.simulation.kafka import TOPIC, RealTopicError, refuse_real_name
from agent.simulation.outputs import Counted, Files, read_files
from agent.simulation.plan import DESTINATIONS, RECEIVERS, Asked, Plan
from tests.tools.program import sekisho

ASKED = Asked(
    hosts=60, rate=20.0, seconds=30, begin_ns=1_763_700_000 * 10**9, seed=7, incidents=4, backlog_share=0.05
)


def messages(asked: Asked) -> list[Sent]:
    """All of a fleet's."""
    return [sent for sent in Fleet(Plan(asked), "v1").messages() if not isinstance(sent, int)]


@pytest.fixture(scope="module")
def sent() -> list[Sent]:
    return messages(ASKED)


@pytest.fixture(scope="module")
def batches(sent: list[Sent]) -> list[FlowBatch]:
    checker = Checker({})
    out = []
    for one in sent:
        message = one.message
        found = checker.check({HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}, message.value)
        assert isinstance(found, Sealed), found
        out.append(found.batch)
    return out


def test_a_fleet_follows_from_its_seed(sent: list[Sent]) -> None:
    """The same options give the same octets, signatures included; another seed gives other agents and keys."""
    assert messages(ASKED) == sent
    other = messages(replace(ASKED, seed=8))
    assert not {one.agent_id for one in other} & {one.agent_id for one in sent}
    assert not {one.message.signature for one in other} & {one.message.signature for one in sent}


def test_every_message_is_one_that_a_detector_takes(sent: list[Sent], batches: list[FlowBatch]) -> None:
    """Signed by the key that stands in it, numbered without a hole in each run and lane, at most 1,000 rows."""
    assert all(one.agent_id.startswith("simulated-7-") for one in sent)
    numbers: dict[tuple[str, str, int], list[int]] = {}
    for batch in batches:
        header = batch.header
        assert header.host == header.agent_id
        numbers.setdefault((header.agent_id, header.run_id, header.lane), []).append(header.sequence)
    assert all(found == list(range(len(found))) for found in numbers.values())
    assert max(map(len, batches)) <= 1_000
    backlogs = Counter(agent for agent, _ in {(agent, run) for agent, run, _ in numbers})
    assert sorted(backlogs.values())[-4:] == [1, 2, 2, 2]


def test_destinations_are_of_documentation_ranges(batches: list[FlowBatch]) -> None:
    """No row names an address that could be anybody's."""
    allowed = NetworkSet((*DESTINATIONS, RECEIVERS))
    assert all(allowed.contains(batch["remote_address"]).all() for batch in batches)
    own = NetworkSet(("10.0.0.0/8",))
    assert all(own.contains(batch["local_address"]).all() for batch in batches)


def test_destinations_of_the_user_are_kept_to() -> None:
    """A list of networks takes the place of the documentation ranges."""
    asked = replace(ASKED, incidents=0, destinations=("10.20.0.0/16", "fd00::/16"), seconds=10)
    allowed = NetworkSet(asked.destinations)
    for one in messages(asked):
        assert allowed.contains(one.message.batch(one.message.read_header())["remote_address"]).all()


def test_what_is_hidden_is_told_to_the_octet(batches: list[FlowBatch]) -> None:
    """Each incident's rows and content octets are those of the truth, from its host and store, in its time."""
    for incident in Plan(ASKED).incidents:
        asn = int(incident.entity.removeprefix("as:"))
        rows = octets = 0
        for batch in batches:
            mine = batch["remote_asn"] == asn
            if mine.any():
                assert batch.header.agent_id == incident.agent_id
                assert set(batch.text("store").take(mine).decode()) == {incident.store}
                ends = batch["end_ns"][mine]
                assert incident.begin_ns <= ends.min() <= ends.max() < incident.end_ns
                rows, octets = rows + int(mine.sum()), octets + int(batch["content_octets_out"][mine].sum())
        assert (rows, octets) == (incident.rows, incident.content_octets_out)


def test_rates_and_times_are_as_asked(batches: list[FlowBatch]) -> None:
    """Flows are as many as the rate says, within a few per cent; a backlog lies in the 10 minutes before."""
    live = [b for b in batches if int(b["end_ns"].max()) >= ASKED.begin_ns - 31 * 10**9]
    old = [b for b in batches if int(b["end_ns"].max()) < ASKED.begin_ns - 31 * 10**9]
    flows = sum(int(batch["flows"].sum()) for batch in (*live, *old))
    plan = Plan(ASKED)
    kept = sum(plan.weights[host] for host in plan.backlogged) * 20 * 600
    expected = 60 * 20 * 30 + kept + sum(i.rows for i in plan.incidents)
    assert 0.95 < flows / expected < 1.05
    first = min(int(batch["end_ns"].min()) for batch in old)
    assert ASKED.begin_ns - 640 * 10**9 <= first <= ASKED.begin_ns - 560 * 10**9


def test_an_hour_of_the_day_is_busier_than_another() -> None:
    """Over a day the rate goes up and down around its mean."""
    plan = Plan(replace(ASKED, seconds=86_400))
    hours = [plan.rhythm(ASKED.begin_ns + hour * 3_600 * 10**9) for hour in range(24)]
    assert np.isclose(np.mean(hours), 1.0, atol=0.01)
    assert max(hours) > 1.4 > 0.6 > min(hours)


def test_files_give_back_what_went_in(sent: list[Sent], tmp_path: Path) -> None:
    """Messages in files are the same messages; a folder that holds some is not written to again."""
    out = Files(tmp_path / "messages")
    for one in sent:
        out.put(one)
    out.close()
    assert list(read_files(tmp_path / "messages")) == [one.message for one in sent]
    with pytest.raises(FileExistsError):
        Files(tmp_path / "messages")
    counted = Counted()
    for one in sent:
        counted.put(one)
    assert 0 < counted.octets < sum(len(one.message.value) for one in sent)


@pytest.mark.parametrize("topic", ["sekisho.flows.v1", "sekisho.agents.v1", "other", "mine"])
def test_a_topic_of_real_agents_is_refused(topic: str) -> None:
    """Neither the shipped names, nor those of the settings, nor any that does not say that it is simulated."""
    connection = Connection.model_validate({"servers": ["127.0.0.1:9"], "topics": {"flows": "mine"}})
    with pytest.raises(RealTopicError, match="simulated"):
        refuse_real_name(topic, connection)
    refuse_real_name(TOPIC, connection)


def test_the_command_counts_and_tells(tmp_path: Path) -> None:
    """A dry run gives figures and the truth as JSON, and writes truth and policy into files."""
    run = sekisho(
        "simulate", "fleet", "--hosts", "30", "--seconds", "10", "--incidents", "2", "--dry-run", "--json",
        "--begin", "2026-11-20T10:00Z", "--truth", str(tmp_path / "truth.json"),
        "--write-policy", str(tmp_path / "policy.yaml"), home=tmp_path,
    )  # fmt: skip
    told = json.loads(run.out)
    assert told["hosts"] == 30
    assert told["rows"] <= told["rows_handed_over"]
    assert json.loads((tmp_path / "truth.json").read_text()) == told["truth"]
    assert len(told["truth"]["incidents"]) == 2
    checked = sekisho("policy", "check", str(tmp_path / "policy.yaml"), home=tmp_path)
    assert checked.code == 0, checked


@pytest.mark.parametrize(
    ("language", "said"),
    [
        (
            "en",
            r"[\d,]+ messages, [\d,]+ rows \([\d,]+ before alike ones were joined\), \S+ \S+, of 30 simulated hosts in 10 s "
            r"of event time\n2 transfers are hidden in it: use --truth FILE to have them listed\nnothing was sent\n",
        ),
        (
            "ja",
            r"メッセージ [\d,]+ 件、行 [\d,]+ 件（同じものをまとめる前は [\d,]+ 件）、\S+ \S+。模擬ホスト 30 台、イベント時間 10 秒分\n"
            r"2 件の転送を中に隠した：--truth FILE を付けると一覧を書き出す\n何も送信していない\n",
        ),
    ],
)
def test_the_command_speaks_the_language_of_the_settings(language: str, said: str, tmp_path: Path) -> None:
    """Every word of a dry run, English and Japanese."""
    run = sekisho(
        f"--set=language={language}", "simulate", "fleet", "--hosts", "30", "--seconds", "10", "--incidents", "2",
        "--dry-run", home=tmp_path,
    )  # fmt: skip
    assert re.fullmatch(said, run.out), run.out
    assert run.err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seconds", "5", "--minutes", "1", "--dry-run"), "not both"),
        (("--dry-run", "--to-files", "x"), "not both"),
        (("--backlog-share", "many", "--dry-run"), "a share such as 1%"),
        (("--hosts", "0", "--dry-run"), "--hosts"),
    ],
)
def test_options_that_contradict_each_other_are_told(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Usage errors name the option and what was expected."""
    run = sekisho("simulate", "fleet", *words, home=tmp_path)
    assert run.code == 2
    assert said in run.err
