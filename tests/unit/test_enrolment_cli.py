"""The commands of enrolment and of the tripwire, as people meet them."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from agent.config import load
from agent.core.clock import DataClock, SystemClock
from agent.core.decision import Decision
from agent.core.enrolment import Token
from agent.runtime import agent_id
from agent.sending.joining import key_of, take_new
from agent.store.enrolments import Enrolled
from agent.store.inputs import Intake
from agent.store.state import Commit, State
from tests.tools.notices import START_NS
from tests.tools.program import sekisho

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e../../etc"
"""What a host may call itself: it is not asked for more than 255 characters."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the state of a detector, to which one host of a bad name is enrolled."""
    (tmp_path / "state").mkdir()
    with State.open(tmp_path / "state" / "state.db", clock=DataClock(START_NS)) as state:
        intake = Intake(enrolled=(Enrolled("db-1", b"k" * 32, "0" * 12, HOSTILE),))
        state.commit(Commit(Decision(), position="", now_ns=START_NS, intake=intake))
    return tmp_path


def test_a_token_is_shown_once_and_its_secret_kept_nowhere(home: Path) -> None:
    """On standard output alone, so that it can be piped; what is kept enrols nobody."""
    done = sekisho("enrolment", "token", "--uses", "3", "--note", "rollout", home=home)
    token = Token.parse(done.out)
    assert (done.code, done.out) == (0, token.text + "\n")
    assert token.id in done.err
    assert token.text not in done.err
    kept = b"".join(path.read_bytes() for path in (home / "state").glob("state.db*"))
    assert token.secret not in kept
    assert token.text.encode() not in kept
    with closing(State.open(home / "state" / "state.db", clock=SystemClock(), read_only=True)) as state:
        (row,) = state.enrolments.tokens()
    assert (row.public_key, row.uses, row.note) == (token.public, 3, "rollout")


def test_a_name_with_markup_reaches_no_screen(home: Path) -> None:
    """The list shows what a host calls itself with every control and bidirectional character made visible."""
    done = sekisho("enrolment", "list", home=home, env={"COLUMNS": "200"})
    assert done.code == 0
    assert "db-1" in done.out
    assert not any(c in done.out for c in "\x1b\u202e")
    assert r"\x1b" in done.out
    (known,) = json.loads(sekisho("enrolment", "list", "--json", home=home).out)["identities"]
    assert (known["host"], known["how"]) == (HOSTILE, "enrolled")


@pytest.mark.parametrize("agent", ["../../etc", "<b>", "a b", "\u202ex", "x" * 129])
def test_no_token_is_made_for_what_is_no_agents_id(home: Path, agent: str) -> None:
    """Refused as wrong usage, before anything is kept."""
    done = sekisho("enrolment", "token", "--agent", agent, home=home)
    assert (done.code, "expected an agent's id" in done.err) == (2, True)
    assert json.loads(sekisho("enrolment", "list", "--json", home=home).out)["tokens"] == []


def test_an_agent_and_a_token_are_revoked_by_name(home: Path) -> None:
    """Once; what is not there is said, with where to look."""
    token = json.loads(sekisho("enrolment", "token", "--json", home=home).out)["id"]
    for subject, kind in ((token, "token"), ("db-1", "agent")):
        words = ("enrolment", "revoke", subject, "--note", "test")
        told = json.loads(sekisho(*words, "--json", home=home).out)
        assert (told["kind"], told["subject"]) == (kind, subject)
        again = sekisho(*words, home=home)
        assert (again.code, "sekisho enrolment list" in again.err) == (1, True)
    found = json.loads(sekisho("enrolment", "list", "--json", home=home).out)
    assert [row["state"] for row in found["tokens"]] == ["revoked"]
    assert [row["how"] for row in found["identities"]] == ["revoked"]
    with closing(State.open(home / "state" / "state.db", clock=SystemClock(), read_only=True)) as state:
        kinds = [action.kind for action in state.enrolments.actions_after(0)]
    assert kinds == ["token_made", "token_revoked", "agent_revoked"]


def test_a_token_that_is_none_is_refused_and_not_repeated(home: Path) -> None:
    """It may be a real one with a letter missing: no log and no screen has it."""
    for words in (("sekisho1-nearly",), ("--token-file", "-")):
        done = sekisho("agent", "enrol", *words, home=home, stdin=b"sekisho1-nearly\n")
        assert (done.code, "nearly" in done.text) == (1, False)
        assert "expected sekisho1-…" in done.err or "expected sekisho1-" in done.err
    assert sekisho("agent", "enrol", home=home).code == 2
    assert sekisho("agent", "enrol", "--token-file", "nowhere", home=home).code == 1


def test_an_agent_without_kafka_cannot_enrol(home: Path) -> None:
    """It says which setting is missing."""
    done = sekisho("agent", "enrol", Token.make().text, home=home)
    assert (done.code, "kafka is not set" in done.err) == (1, True)


def test_an_agent_id_file_with_a_path_in_it_is_no_id(tmp_path: Path) -> None:
    """The agent takes no id from it but makes a new one."""
    (tmp_path / "state").mkdir()
    for text in ("../../etc/passwd", "<b>x</b>", "a b", "\u202ex", ""):
        (tmp_path / "state" / "agent-id").write_text(text)
        loaded = load(environ={}, flags=[], given=[("state_dir", tmp_path / "state")])
        found = agent_id(loaded.settings)
        assert found.isalnum()
        assert found != text
        assert agent_id(loaded.settings) == found


def test_a_new_key_waits_beside_the_old_one_until_it_is_taken(tmp_path: Path) -> None:
    """Made again it is the same; readable by its owner alone; taken, it stands in place of the old one."""
    old = key_of(tmp_path, new=False).public
    new = key_of(tmp_path, new=True).public
    assert key_of(tmp_path, new=True).public == new != old
    assert key_of(tmp_path, new=False).public == old
    take_new(tmp_path)
    assert key_of(tmp_path, new=False).public == new
    assert [p.name for p in tmp_path.iterdir()] == ["agent.key"]
    assert stat.S_IMODE((tmp_path / "agent.key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    """Else the service's user could not read its own key."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    key_of(folder, new=False)
    key_of(folder, new=True)
    owners = {p.stat().st_uid for p in folder.rglob("*")}
    assert owners == {12345}


def test_the_tripwires_test_tells_every_sink_and_says_who_was_not_told(tmp_path: Path) -> None:
    """One that takes it, one that is not there; exit code 0, for somebody would be told."""
    place = tmp_path / "log"
    (tmp_path / "sekisho.yaml").write_text(
        f"sinks:\n  siem: {{use: syslog, socket: {place}}}\n  gone: {{use: syslog, socket: {tmp_path}/none}}\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(place))
        done = sekisho("agent", "tripwire", "test", "--json", home=tmp_path)
        said = end.recv(65_536).decode()
    told = json.loads(done.out)
    assert done.code == 0
    assert "[SIMULATED]" in said
    assert "test of the tripwire" in said
    assert {one["sink"]: one["delivered"] for one in told["sinks"]} == {"siem": True, "gone": False}
    assert (told["enabled"], told["after_s"]) == (True, 300)


def test_a_tripwire_that_could_tell_nobody_ends_with_1(tmp_path: Path) -> None:
    """Switched off, or no sink that works, or a name of a sink that there is none of."""
    off = sekisho("--set", "tripwire.enabled=false", "agent", "tripwire", "test", home=tmp_path)
    assert (off.code, "switched off" in off.out) == (1, True)
    (tmp_path / "sekisho.yaml").write_text(f"sinks:\n  gone: {{use: syslog, socket: {tmp_path}/none}}\n")
    gone = sekisho("agent", "tripwire", "test", home=tmp_path)
    assert (gone.code, "NOT told" in gone.out) == (1, True)
    wrong = sekisho("--set", "tripwire.sinks=[nobody]", "agent", "tripwire", "test", home=tmp_path)
    assert (wrong.code, "tripwire.sinks: nobody" in wrong.err) == (1, True)
