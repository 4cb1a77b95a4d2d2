"""Nonsense on the command line, in the environment and in files: the right exit code and one clear sentence."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli import main
from tests.tools.program import (
    SECONDS,
    Outcome,
    command,
    environment,
    fit_to_be_seen,
    sekisho,
)

Run = Callable[..., Outcome]
SPAN = "expected a span such as 90s, 5m, 24h or 30d"
WHEN = "expected a span such as 2h or 7d, or a time such as 2026-11-18T16:00"
ADDRESS = "is no IP address; expected one such as 203.0.113.7 or 2001:db8::1"
NO_STATE = "there is no state yet; `sekisho up` makes it, or check state_dir"
EVIL = "[/bold] Evil \x1b]0;owned\x07 [red]"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line in this process, in an empty folder and an environment without our settings."""
    for name in [name for name in os.environ if name.startswith("SEKISHO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(["--state-dir", str(tmp_path / "state"), *map(str, arguments)])
        out, err = capsys.readouterr()
        outcome = Outcome(int(ended.value.code or 0), out, err)
        fit_to_be_seen(outcome)
        return outcome

    yield go


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state that a replay of the bundled capture leaves in a folder with a Japanese name, spaces and signs."""
    home = tmp_path_factory.mktemp("sample")
    state = home / "状態 %20 #1: ~'x'"
    outcome = sekisho("replay", "--sample", "--state", state, home=home)
    assert outcome.code == 0, outcome.text
    return state


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--bogus"], 2, "No such option '--bogus'"),
        (["bogus"], 2, "No such command 'bogus'"),
        (["--state-dir", "", "check"], 2, "--state-dir is empty; expected a folder"),
        (["--set", "nonsense", "check"], 2, "--set nonsense: expected NAME=VALUE, such as --set language=ja"),
        (["--set", "=x", "check"], 2, "--set =x: expected NAME=VALUE"),
        (
            ["--set", "language=fr", "config", "show"],
            1,
            "`fr` is none of the choices (choose one of: en, ja)",
        ),
        (["--set", "language=[", "config", "show"], 1, "--set language: '[' cannot be read as a value"),
        (
            ["--set", "language.x=1", "config", "show"],
            1,
            "--set language.x: keys and values is none of the choices (choose one of: en, ja)",
        ),
        (["--set", "x.y.z=1", "config", "show"], 1, "--set x.y.z: unknown key `x` (known here: archive, "),
        (["--set", "collectors=5", "config", "show"], 1, "expected keys and values, got `5`"),
        (
            ["--set", "collectors.af_pack={}", "config", "show"],
            1,
            "--set collectors.af_pack: no collector is called",
        ),
        (
            ["--set", "collectors.af_packet.ring_mib=abc", "config", "show"],
            1,
            "--set collectors.af_packet.ring_mib: expected a whole number, got `abc`",
        ),
        (["--set", "lateness=-5", "config", "show"], 1, "lateness: a span is not negative"),
        (["--set", "lateness=99999999999d", "config", "show"], 1, "lateness: a span is at most 36500d"),
        (
            ["--set", "time_zone=Mars/One", "config", "show"],
            1,
            "no such time zone; expected a name such as Asia/Tokyo",
        ),
        (["--set", "policy=5", "config", "show"], 1, "expected a list, got `5`"),
        (["-c", "none.yaml", "config", "show"], 1, "none.yaml: cannot be read: No such file or directory"),
        (["flows"], 1, "there is no archive here; `sekisho up` writes one, or check the folder"),
        (["flows", "--since", "nonsense"], 2, f"Invalid value for --since: nonsense: {WHEN}"),
        (["flows", "--since", "0001-01-01"], 2, f"Invalid value for --since: 0001-01-01: {WHEN}"),
        (["flows", "--until", "9" * 30 + "d"], 2, f"Invalid value for --until: {'9' * 30}d: {WHEN}"),
        (["flows", "--remote", "x"], 2, "--remote x: expected an address or network such as 203.0.113.0/24"),
        (["flows", "--limit", "0"], 2, "0 is not in the range"),
        (["cases", "list"], 1, NO_STATE),
        (["cases", "show", "2026"], 1, NO_STATE),
        (["cases", "list", "--since", "x"], 2, f"Invalid value for --since: x: {SPAN}"),
        (["cases", "close", "x"], 2, "Missing option '--verdict'"),
        (
            ["top", "--for", "99999999999d"],
            2,
            "Invalid value for --for: 99999999999d: a span is at most 36500d",
        ),
        (["who"], 2, "Missing argument 'ADDRESS...'"),
        (["who", "notanip"], 2, f"notanip {ADDRESS}"),
        (["who", "192.0.2.0/24"], 2, f"192.0.2.0/24 {ADDRESS}"),
        (
            ["policy", "check", "none.yaml"],
            1,
            "none.yaml: cannot be read: No such file or directory (check the path)",
        ),
        (["policy", "check", "."], 1, ".: holds no policy file (put a file that ends in .yaml there)"),
        (["db", "status"], 1, "no database is installed: run `sekisho db install`"),
        (
            ["db", "install", "--country", "none"],
            1,
            "none: cannot be read: No such file or directory; check the path",
        ),
        (["replay"], 2, "name at least one capture, or --sample"),
        (["replay", "--sample", "x.pcap"], 2, "--sample brings its own capture, policy, overrides and host"),
        (
            ["replay", "--local", "10.0.0.1/8", "x"],
            2,
            "--local: `10.0.0.1/8` has host bits set (the network is 10.0.0.0/8;",
        ),
        (
            ["replay", "--state", "/dev/null/x", "x"],
            1,
            "/dev/null/x: a part of the path is no folder; check the path",
        ),
    ],
)
def test_nonsense_is_said_in_one_sentence(run: Run, arguments: list[str], code: int, said: str) -> None:
    """Usage is exit code 2, an error in what was named 1; the sentence names the flag and what was expected."""
    outcome = run(*arguments)
    assert (outcome.code, said in outcome.text) == (code, True), outcome.text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SEKISHO_NONSENSE", "1", "SEKISHO_NONSENSE: unknown key `nonsense`"),
        ("SEKISHO_LANGUAGE", "[", "SEKISHO_LANGUAGE: '[' cannot be read as a value"),
        ("SEKISHO_CONFIG", "/none", "/none: cannot be read: No such file or directory"),
        ("SEKISHO_", "1", "SEKISHO_: unknown key ``"),
        ("SEKISHO_COLLECTORS__X__Y", "1", "SEKISHO_COLLECTORS__X__Y: no collector is called x; there are: "),
    ],
)
def test_nonsense_in_the_environment_names_the_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """A variable that is not known or cannot be read is refused by name."""
    monkeypatch.setenv(name, value)
    outcome = run("config", "show")
    assert (outcome.code, said in outcome.err) == (1, True), outcome.text


SETTINGS = """\
version: 2
lnguage: en
lateness: soon
archive: perhaps
collectors:
  af_packet:
    ring_mib: 0
    rings: 3
sinks:
  telegraph: {}
"""
POLICY = """\
stores:
  - {id: ehr, categories: [personal_health], recognise: {hosts: [db-1]}}
  - {id: ehr, categories: [personal_health], recognise: {hosts: [db-2]}}
  - {id: claims, categories: [personal_health], recognise: {hosts: [db-1]}}
  - {id: Lab, categories: [blood], recognise: {addresses: [192.0.2.1/24, 300.1.1.1]}}
sites:
  - {id: own, networks: [192.0.2.0/33]}
rules:
  - {id: mine, over: 9999999999999999 PB, window: 2h}
  - {id: other, over: -1, window: 24h, stores: [none]}
storage: 1
"""


def test_settings_with_many_faults_name_each_with_its_line(run: Run, tmp_path: Path) -> None:
    """Unknown keys, wrong types and values out of range, in one reading."""
    (tmp_path / "sekisho.yaml").write_text(SETTINGS)
    outcome = run("config", "show")
    assert (outcome.code, outcome.said) == (
        1,
        [
            "sekisho: sekisho.yaml:1: version: `2` is none of the choices (choose one of: 1)",
            "sekisho: sekisho.yaml:3: lateness: expected a span such as 90s, 5m, 24h or 30d",
            "sekisho: sekisho.yaml:4: archive: expected true or false, got `perhaps`",
            "sekisho: sekisho.yaml:2: unknown key `lnguage` (did you mean `language`?)",
        ],
    )
    (tmp_path / "sekisho.yaml").write_text("\n".join(SETTINGS.splitlines()[4:]))
    outcome = run("config", "show")
    assert outcome.code == 1
    for said in ("3: ring_mib: ", "4: unknown key `rings`", "6: no sink is called telegraph; there are: "):
        assert f"sekisho.yaml:{said}" in outcome.err, outcome.err


def test_a_policy_with_many_faults_names_each_with_its_line(run: Run, tmp_path: Path) -> None:
    """Duplicate ids, overlapping stores, bad networks, sizes without end and names that are not there, in one reading."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    outcome = run("policy", "check", "policy.yaml")
    assert outcome.code == 1
    for line, said in (
        (3, "store `ehr` is given twice, first at policy.yaml:2"),
        (4, "stores `claims` and `ehr` (policy.yaml:2) both claim everything that leaves the same place"),
        (5, "`192.0.2.1/24` has host bits set"),
        (5, "`300.1.1.1` is no network or address"),
        (7, "`192.0.2.0/33` is no network or address"),
        (9, "a size is at most 1000 PB"),
        (10, "a size is not negative"),
        (11, "unknown key `storage`"),
    ):
        assert any(f"policy.yaml:{line}: " in row and said in row for row in outcome.said), (
            said,
            outcome.err,
        )


def test_a_person_may_acknowledge_twice_and_close_once(sample: Path, tmp_path: Path) -> None:
    """Each action is said; what cannot be done any more says who did it; an unknown id says where to look."""

    def cases(*arguments: str) -> tuple[int, str]:
        outcome = sekisho("cases", *arguments, home=tmp_path, state_dir=sample)
        return outcome.code, outcome.text.strip()

    case = json.loads(cases("list", "--json")[1])["id"]
    assert cases("ack", case, "--as", "mori") == (0, f"{case} acknowledged by mori")
    assert cases("ack", case[:6], "--as", "mori") == (0, f"{case} acknowledged by mori")
    done = ("close", case, "--as", "mori", "--verdict", "expected", "--note", "the audit")
    code, told = cases(*done)
    assert (code, told.splitlines()[0]) == (0, f"{case} closed by mori: expected")
    assert cases(*done) == (1, f"sekisho: case {case} was closed by mori already")
    assert cases("show", "1999") == (1, "sekisho: no case '1999'; `sekisho cases list` shows those there are")


def test_output_into_a_closed_pipe_ends_quietly(sample: Path, tmp_path: Path) -> None:
    """Whoever reads one line and goes gets no error and exit code 0."""
    for arguments in (["flows", "--since", "2000-01-01"], ["policy", "schema"], ["who", "192.0.2.1"]):
        line = command(*arguments, state_dir=sample)
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            line,
            env=environment(tmp_path),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_standard_output_that_is_full_is_an_error(tmp_path: Path) -> None:
    """What could not be written is said, with exit code 1."""
    with Path("/dev/full").open("wb") as full:
        line = command("policy", "schema", state_dir=tmp_path / "state")
        done = subprocess.run(
            line, env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, timeout=SECONDS, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"sekisho: output: no room is left there; free some\n")


def test_closed_standard_streams_harm_nothing(sample: Path, tmp_path: Path) -> None:
    """Started without any standard stream, a command does its work, and no file of ours takes a stream's number."""
    line = command("replay", "--sample", "--state", tmp_path / "kept", state_dir=tmp_path / "state")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *line],
        env=environment(tmp_path),
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert '"severity"' in sekisho("cases", "list", "--json", home=tmp_path, state_dir=tmp_path / "kept").out


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "NO_COLOR": "1", "COLUMNS": "40"},
    ],
    ids=["ascii", "narrow"],
)
def test_any_locale_and_width_show_everything(sample: Path, tmp_path: Path, env: dict[str, str]) -> None:
    """A locale without letters and a screen of 40 columns show the case, in Japanese too, from a path in Japanese."""
    shown = sekisho("cases", "show", "2026", "--language", "ja", home=tmp_path, state_dir=sample, env=env)
    assert (shown.code, "2026-1121-01" in shown.out) == (0, True)
    flows = sekisho("flows", "--since", "2000-01-01", home=tmp_path, state_dir=sample, env=env)
    assert flows.code == 0
    assert "\x1b" not in flows.out
    if "COLUMNS" in env:
        assert max(map(len, flows.out.splitlines())) <= 40
    assert "patients" in flows.out.replace("\n", "") or "COLUMNS" in env


def test_rows_in_a_pipe_are_not_folded(sample: Path, tmp_path: Path) -> None:
    """A row of the archive is one line where no terminal says how wide the screen is."""
    flows = sekisho("flows", "--since", "2000-01-01", home=tmp_path, state_dir=sample)
    rows = [line for line in flows.out.splitlines() if "203.0.113." in line]
    assert rows
    assert all(row.startswith("2026-") and "patients" in row for row in rows)


def test_names_written_by_strangers_are_shown_as_text(run: Run, tmp_path: Path) -> None:
    """A network's name that holds markup and terminal commands is shown harmlessly everywhere, and stops nothing."""
    names = EVIL.replace("\x1b", "\\e").replace("\x07", "\\a")
    (tmp_path / "overrides.yaml").write_text(
        f'overrides: [{{network: 203.0.113.0/24, country: DE, asn: 64500, as_org: "{names}", source: "{names}", '
        f'owner: example-holdings, owner_country: CN, checked: 2026-11-01, note: "{names}"}}]\n'
    )
    sample = Path(__import__("agent").__file__).parent / "sample"
    replay = (
        "replay",
        "--policy",
        sample / "policy.yaml",
        "--overrides",
        "overrides.yaml",
        "--host",
        "db-01",
    )
    outcomes = [
        run(*replay, "--state", tmp_path / "state", sample / "sample.pcap.gz"),
        run("cases", "list"),
        run("cases", "show", "2026"),
        run("flows", "--since", "2000-01-01"),
        run("flows", "--since", "2000-01-01", "--by", "network"),
        run("--set", "overrides=overrides.yaml", "who", "203.0.113.77"),
    ]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.text
        assert "\x1b" not in outcome.text
        assert "\x07" not in outcome.text
    for index in (0, 3, 4, 5):
        assert "[/bold] Evil \\x1b]0;owned\\x07 [red]" in outcomes[index].out, outcomes[index].out


def test_a_defect_of_ours_is_told_in_one_line_with_its_details_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should one ever happen: no traceback on the screen, exit code 1, and where to find what to report."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_: object) -> None:
        raise RuntimeError("a test broke this")

    monkeypatch.setattr("agent.policy.load.schema", broken)
    with pytest.raises(SystemExit) as ended:
        main(["policy", "schema"])
    said = capsys.readouterr().err
    file = next(tmp_path.glob("sekisho-defect-*.txt"))
    assert ended.value.code == 1
    assert (
        said == f"sekisho: a defect of ours (RuntimeError: a test broke this); please report it with {file}\n"
    )
    assert "Traceback" in file.read_text()
