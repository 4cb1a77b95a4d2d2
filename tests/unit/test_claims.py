"""Names that were claimed for the other ends of stores: kept within bounds, told as a claim, found on every screen."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.core.finding import Named, Share
from agent.detection import claims as claims_file
from agent.detection.claims import Claims
from agent.words import LANGUAGES, render
from sinks.ocsf_events.findings import finding_event
from tests.tools import notices
from tests.tools.hello_messages import client_hello, dns_answer
from tests.tools.program import sekisho
from tests.tools.rows import batch_of

HERE, THERE, ALSO = "10.0.0.1", "203.0.113.77", "203.0.113.78"
TO = notices.destination(addresses=(Share(value=THERE), Share(value=ALSO)))


def row(name: str | None, remote: str = THERE, store: str | None = "ehr") -> dict[str, object]:
    return {"remote_name": name, "remote_address": remote, "store": store}


def names(claims: Claims) -> list[tuple[str, str]]:
    return [(named.address, named.name) for named in claims.told(TO).names]


def test_names_of_store_rows_are_told_newest_first() -> None:
    """Rows without a name or a store give none; each address has its newest names, four at most."""
    claims = Claims()
    claims.hear(
        batch_of([row("a.example"), row(None), row("no.example", store=None), row("x.example", ALSO)])
    )
    for name in ("b.example", "a.example", "c.example", "d.example", "e.example"):
        claims.hear(batch_of([row(name)]))
    kept = [(THERE, f"{letter}.example") for letter in "edca"]
    assert names(claims) == [*kept, (ALSO, "x.example")]


def test_a_restart_takes_up_what_cases_tell() -> None:
    """What was told before the restart is told after it, in the same order."""
    claims, again = Claims(), Claims()
    for name in ("a.example", "b.example"):
        claims.hear(batch_of([row(name)]))
    again.recall([claims.told(TO)])
    assert names(again) == names(claims) == [(THERE, "b.example"), (THERE, "a.example")]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit the address that was named longest ago is forgotten."""
    monkeypatch.setattr(claims_file, "ADDRESSES", 1)
    claims = Claims()
    claims.hear(batch_of([row("a.example")]))
    claims.hear(batch_of([row("b.example", ALSO)]))
    assert names(claims) == [(ALSO, "b.example")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_alert_tells_names_as_a_claim(language: str) -> None:
    """The full text has each name once, without control characters, and says that it proves nothing; others have none."""
    told = TO.model_copy(
        update={"names": tuple(Named(address=a, name="a\x1b[31m.example") for a in (THERE, ALSO))}
    )
    notice = notices.notice(case=notices.case(destination=told))
    text = render(notice, language=language, zone=None, detail="full")
    assert text.count("a\\x1b[31m.example") == 1
    assert {"en": "no proof of who the other end is", "ja": "証明ではない"}[language] in text
    for detail in ("minimal", "title"):
        assert "example" not in render(notice, language=language, zone=None, detail=detail).replace(
            "example-", ""
        )


def test_ocsf_has_a_hostname_where_there_is_one_name() -> None:
    """The endpoint has the name of its address if that is one; all names are observables."""
    one = TO.model_copy(update={"names": (Named(address=THERE, name="a.example"),)})
    two = TO.model_copy(update={"names": (*one.names, Named(address=THERE, name="b.example"))})
    for told, hostname in ((one, "a.example"), (two, None), (TO, None)):
        event = finding_event(notices.notice(case=notices.case(destination=told)))
        assert event["dst_endpoint"].get("hostname") == hostname
        found = [o["value"] for o in event["observables"] if o["name"] == "dst_endpoint.hostname"]
        assert found == [named.name for named in told.names]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A DNS answer, then a connection to the address in it with a ClientHello for another host."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    out = IP(src=HERE, dst=THERE)
    packets = [
        IP(src="10.0.0.53", dst=HERE) / UDP(sport=53, dport=5353) / dns_answer("files.example.org", [ALSO]),
        out / TCP(sport=40000, dport=443, flags="S"),
        out / TCP(sport=40000, dport=443, flags="PA") / client_hello("db.example.org"),
        IP(src=HERE, dst=ALSO) / TCP(sport=40001, dport=443, flags="S"),
    ]
    began = time.time() - 60
    frames = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in packets]
    for number, frame in enumerate(frames):
        frame.time = began + number
    path = tmp_path / "names.pcap"
    wrpcap(str(path), frames)
    return path


def test_replay_names_other_ends_on_request(capture: Path, tmp_path: Path) -> None:
    """With --names the summary, `flows` and `who` have the names; without it nothing has."""
    state = tmp_path / "kept"
    plain = json.loads(sekisho("replay", "--json", capture, home=tmp_path).out)
    assert [line["names"] for line in plain["destinations"]] == [[]]
    text = sekisho("replay", "--names", "--state", state, capture, home=tmp_path).out
    assert "db.example.org" in text
    told = json.loads(sekisho("replay", "--names", "--json", capture, home=tmp_path).out)
    assert [sorted(line["names"]) for line in told["destinations"]] == [
        ["db.example.org", "files.example.org"]
    ]
    rows = sekisho("flows", "--since", "1h", home=tmp_path, state_dir=state).out
    assert "files.example.org" in rows
    who = sekisho("who", "--names", "1h", "--json", THERE, ALSO, home=tmp_path, state_dir=state).out
    assert [json.loads(line)["names"] for line in who.splitlines()] == [
        ["db.example.org"],
        ["files.example.org"],
    ]
    assert json.loads(sekisho("who", "--json", THERE, home=tmp_path, state_dir=state).out)["names"] is None
    assert "db.example.org" in sekisho("who", "--names", "1h", THERE, home=tmp_path, state_dir=state).out
