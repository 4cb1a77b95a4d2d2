"""``sekisho owners`` and the canaries: files are tried before they are in force."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from agent import databases
from agent.core.accounts import Accounts
from agent.core.clock import DAY_NS, DataClock, SystemClock
from agent.core.errors import EnrichError, PolicyError
from agent.core.flow import BatchHeader
from agent.core.stages import Context
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.policy.ownership import Ownership
from agent.resumming import difference
from agent.store.state import State
from sinks.archive import Settings as Archive
from tests.tools import mmdb
from tests.tools.program import sekisho
from tests.tools.recount import Sent
from tests.tools.rows import batch_of
from tests.tools.transfers import MB, policy, sent
from tests.unit.test_reclassification import RESTRICTED, SET, table

TODAY = date(2026, 11, 21)
EDGE = "mark: V, source: filing, checked: 2025-11-01"
SOLD = (
    "version: 1\nupdated: 2025-11-01\nowners:\n"
    f"  - {{id: buyer, name: Buyer Ltd, country: RU, {EDGE}}}\n"
    "stakes:\n"
    f"  - {{of: hgc, by: buyer, share: 100, {EDGE}}}\n"
    f"  - {{of: hgc, by: i-squared-capital, share: 100, to: 2025-10, {EDGE}}}\n"
)
POLICY = """
stores:
  - {id: ehr, categories: [personal_health], recognise: {hosts: [this]}}
"""


def sent_before(home: Path, days: int = 3) -> int:
    """A state with 200 MB to AS9304 some days ago. Gives the day."""
    home.joinpath("state").mkdir(parents=True)
    at = SystemClock().now_ns() // DAY_NS * DAY_NS - days * DAY_NS
    clock = DataClock(at + 60 * 10**9)
    with State.open(home / "state" / "state.db", clock=clock) as state:
        decide = LocalDecide(Detector(policy(), Ownership.load()), state, Accounts(), clock, "db-1")
        decide.restore()
        batch = sent([Sent("ehr", 9304, at, at + 10**9, 200 * MB)])
        decide.take([batch.with_header(run_id="r", sequence=0)], clock.now_ns())
        decide.finish()
    return at // DAY_NS


def test_what_a_file_would_change_is_told_before_it_is_in_force(tmp_path: Path) -> None:
    """Networks, the ledger's sums and the rules whose amount is passed; the shipped canary of that network is not met,
    until a canary of one's own says what is expected now; nothing is written."""
    sent_before(tmp_path)
    (tmp_path / "sold.yaml").write_text(SOLD)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "canaries.yaml").write_text(
        "canaries:\n  - {asn: 9304, expect: {owner: buyer, owner_country: RU}}\n"
    )
    asked = ("--set", "policy=policy.yaml", "owners", "diff", "sold.yaml", "--json")
    refused = sekisho(*asked, home=tmp_path)
    told = json.loads(refused.out)
    assert (refused.code, len(told["unmet"])) == (1, 2)
    assert "AS9304 has owner buyer, expected i-squared-capital" in told["unmet"][0]
    assert [n["asn"] for n in told["networks"]] == [9304]
    assert [
        (p["entity_before"], p["entity_after"], p["country_after"], p["content_octets_out"])
        for p in told["pairs"]
    ] == [("owner:i-squared-capital", "owner:buyer", "RU", 200 * MB)]
    appear = [(p["rule"], p["store"], p["entity"]) for p in told["appear"]]
    assert appear == [("operator/bulk-restricted-owner", "ehr", "owner:buyer")]
    assert told["vanish"] == []
    met = sekisho(*asked, "--canaries", "canaries.yaml", home=tmp_path)
    assert (met.code, json.loads(met.out)["unmet"]) == (0, [])
    with State.open(tmp_path / "state" / "state.db", clock=SystemClock(), read_only=True) as state:
        assert [row.entity for row in state.ledger.rows()] == ["owner:i-squared-capital"]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_tables_of_a_difference(tmp_path: Path, language: str) -> None:
    """People read the same as tables and sentences in both languages."""
    sent_before(tmp_path)
    (tmp_path / "sold.yaml").write_text(SOLD)
    (tmp_path / "policy.yaml").write_text(POLICY)
    asked = ("--set", "policy=policy.yaml", "--set", f"language={language}", "owners", "diff", "sold.yaml")
    shown = sekisho(*asked, home=tmp_path)
    whole = shown.out + shown.err
    assert "operator/bulk-restricted-owner" in whole
    assert "AS9304" in whole
    assert ("Nothing was changed." if language == "en" else "何も変更していない") in whole


def test_a_file_with_faults_is_refused_with_line_and_advice(tmp_path: Path) -> None:
    """`owners check` names every fault of a file with its line and ends with 1."""
    (tmp_path / "bad.yaml").write_text(SOLD.replace("share: 100", "share: 101", 1))
    shown = sekisho("owners", "check", "bad.yaml", home=tmp_path)
    assert shown.code == 1
    assert "bad.yaml:6" in shown.err
    assert "a share lies between 0 and 100 %" in shown.err


def test_files_of_the_settings_are_in_force(tmp_path: Path) -> None:
    """`who` and `owners check` answer by the files that the setting names; a relative path is relative to the settings."""
    (tmp_path / "sold.yaml").write_text(SOLD)
    (tmp_path / "sekisho.yaml").write_text("ownership: [sold.yaml]\n")
    told = json.loads(sekisho("owners", "check", "--json", home=tmp_path).out)
    assert told["version"] == Ownership.load(own=[tmp_path / "sold.yaml"]).version
    assert len(told["unmet"]) == 2


def test_shipped_canaries_hold_for_the_shipped_table(tmp_path: Path) -> None:
    """What comes with sekisho meets its own canaries, with no database at all and with one that names every address."""
    asked, ownership = databases.read_canaries(), Ownership.load()
    assert list(databases.unmet(asked, ownership, None, TODAY)) == []
    everything = {n: {"country_code": "US"} for n in ("0.0.0.0/1", "128.0.0.0/1", "4000::/2", "c000::/2")}
    mmdb.write(tmp_path / "country.mmdb", everything, aliases=mmdb.MAXMIND_ALIASES, database_type="T-Country")
    book = databases.AddressBook.open(tmp_path, policy=None, ownership=ownership)
    assert list(databases.unmet(asked, ownership, book, TODAY)) == []


@pytest.mark.parametrize(
    ("canary", "fault"),
    [
        ("{expect: {owner: x}}", "ask for either an address or an AS number"),
        ("{asn: 1, address: 192.0.2.1, expect: {owner: x}}", "ask for either an address or an AS number"),
        ("{asn: 1, expect: {}}", "expects nothing"),
        ("{asn: 1, expect: {country: JP}}", "an AS number alone has no place"),
        ("{asn: 1, expect: {owners: x}}", "unknown key `owners`"),
    ],
)
def test_a_canary_that_asks_nothing_is_refused(tmp_path: Path, canary: str, fault: str) -> None:
    """A canary must ask for one thing and expect something; else the file is refused with the line."""
    (tmp_path / "c.yaml").write_text(f"canaries:\n  - {canary}\n")
    with pytest.raises(PolicyError, match=rf"c\.yaml:2: .*{fault}"):
        databases.read_canaries([tmp_path / "c.yaml"])


def test_databases_that_fail_a_canary_are_not_installed(tmp_path: Path) -> None:
    """Canaries are asked of the new databases beside those that stay, before anything is replaced."""
    home, new = tmp_path / "home", tmp_path / "new.mmdb"
    old = tmp_path / "old.mmdb"
    for path, country in ((old, "DE"), (new, "FR")):
        mmdb.write(
            path,
            {"20.0.0.0/8": {"country_code": country}},
            aliases=mmdb.MAXMIND_ALIASES,
            database_type="T-Country",
        )
    databases.install(home, country=str(old))
    seen: list[str | None] = []

    def ask(folder: Path) -> None:
        book = databases.AddressBook.open(folder, policy=None, ownership=Ownership.load())
        seen.append(book.who("20.0.0.1", today=TODAY).country)
        raise EnrichError("a canary is not met")

    with pytest.raises(EnrichError, match="not met"):
        databases.install(home, country=str(new), staged=ask)
    book = databases.AddressBook.open(home, policy=None, ownership=Ownership.load())
    assert (seen, book.who("20.0.0.1", today=TODAY).country) == (["FR"], "DE")


def test_db_update_asks_the_canaries_first(tmp_path: Path) -> None:
    """`db update --canaries` names the canary with file and line, and replaces nothing."""
    for name, country in (("old", "DE"), ("new", "FR")):
        mmdb.write(
            tmp_path / f"{name}.mmdb",
            {"20.0.0.0/8": {"country_code": country}},
            aliases=mmdb.MAXMIND_ALIASES,
            database_type="T-Country",
        )
    (tmp_path / "c.yaml").write_text("canaries:\n  - {address: 20.0.0.1, expect: {country: DE}}\n")
    databases.install(tmp_path / "state" / "databases", country=str(tmp_path / "old.mmdb"))
    asked = ("db", "update", "--country", "new.mmdb", "--canaries", "c.yaml")
    shown = sekisho(*asked, home=tmp_path)
    assert shown.code == 1
    assert "c.yaml:2: 20.0.0.1 has country FR, expected DE" in shown.err
    (tmp_path / "c.yaml").write_text("canaries:\n  - {address: 20.0.0.1, expect: {country: FR}}\n")
    assert sekisho(*asked, home=tmp_path).code == 0


def test_rules_are_held_against_days(tmp_path: Path) -> None:
    """A rule appears where its amount is passed in a day by the new table alone, and vanishes the other way round."""
    north, east = table(tmp_path, "north"), table(tmp_path, "east")
    home = tmp_path / "ledger"
    home.mkdir()
    clock = DataClock(60 * 10**9)
    with State.open(home / "state.db", clock=clock) as state:
        decide = LocalDecide(Detector(policy(), north), state, Accounts(), clock, "db-1")
        decide.restore()
        rows = [
            Sent("ehr", 64500, day * DAY_NS, day * DAY_NS + 1, octets * MB)
            for day, octets in ((1, 60), (2, 90), (3, 150))
        ]
        clock.set(4 * DAY_NS)
        decide.take([sent(rows).with_header(run_id="r", sequence=0)], 4 * DAY_NS)
        decide.finish()
        days = state.entities.days()
    watched = policy(RESTRICTED, destinations=(SET,))
    found = difference(watched, north, east, days, TODAY)
    (passed,) = found.appear
    assert (passed.rule, passed.entity, passed.first_day, passed.content_octets_out) == (
        "operator/restricted",
        "owner:east",
        3,
        150 * MB,
    )
    assert found.vanish == ()
    back = difference(watched, east, north, days, TODAY)
    assert (back.appear, back.vanish) == ((), found.appear)


def archived(folder: Path, *rows: dict[str, object]) -> None:
    """An archive with these rows."""
    sink = Archive().build(Context(Accounts(), folder, clock=SystemClock()))
    header = BatchHeader(agent_id="a", run_id="r", sequence=0, host="db-1")
    sink.write_flows(batch_of(rows, header))
    sink.close()


def test_new_databases_are_held_against_the_archive(tmp_path: Path) -> None:
    """`db update --dry-run` says which stores' traffic gets another place, network or owner, and replaces nothing."""
    for name, country, asn in (("old", "DE", 24940), ("new", "FR", 136907)):
        more = {"aliases": mmdb.MAXMIND_ALIASES}
        places = {"20.0.0.0/9": {"country_code": country}, "20.128.0.0/9": {"country_code": "JP"}}
        mmdb.write(tmp_path / f"{name}-country.mmdb", places, database_type="T-Country", **more)
        networks = {"20.0.0.0/9": {"autonomous_system_number": asn}}
        mmdb.write(tmp_path / f"{name}-network.mmdb", networks, database_type="T-ASN", **more)
    given = [
        {"country": str(tmp_path / f"{n}-country.mmdb"), "network": str(tmp_path / f"{n}-network.mmdb")}
        for n in ("old", "new")
    ]
    databases.install(tmp_path / "state" / "databases", **given[0])
    now_ns = SystemClock().now_ns() - 3600 * 10**9
    base = {"remote_scope": "external", "start_ns": now_ns, "end_ns": now_ns + 1}
    archived(
        tmp_path / "state",
        base | {"remote_address": "20.0.0.1", "store": "ehr", "content_octets_out": 700},
        base | {"remote_address": "20.0.0.2", "store": "ehr", "content_octets_out": 300},
        base | {"remote_address": "20.128.0.1", "store": "ehr", "content_octets_out": 5},
        base | {"remote_address": "20.0.0.1", "content_octets_out": 9},
    )
    asked = ["db", "update", "--dry-run", "--country", given[1]["country"], "--network", given[1]["network"]]
    told = json.loads(sekisho(*asked, "--json", home=tmp_path).out)
    assert told == [
        {
            "store": "ehr",
            "before": {"country": "DE", "asn": 24940, "entity": "owner:hetzner"},
            "after": {"country": "FR", "asn": 136907, "entity": "owner:huawei"},
            "content_octets_out": 1000,
        }
    ]
    shown = sekisho(*asked, home=tmp_path)
    assert (shown.code, "Nothing was replaced" in " ".join((shown.out + shown.err).split())) == (0, True)
    book = databases.AddressBook.open(
        tmp_path / "state" / "databases", policy=None, ownership=Ownership.load()
    )
    assert book.who("20.0.0.1", today=TODAY).country == "DE"
