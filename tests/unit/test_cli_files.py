"""Files that commands write, bars, keys and shell completion."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from importlib import resources
from pathlib import Path

import pytest

from agent.cli.bars import Bar
from agent.cli.keys import keys
from agent.cli.writing import written
from tests.tools.program import SECONDS, command, environment, sekisho


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    """An interrupt while a file is written leaves the one of before, and nothing beside it; modes are kept."""
    file = tmp_path / "a.csv"
    file.write_text("before")
    file.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), written(file) as output:
        output.write("half")
        output.flush()
        raise KeyboardInterrupt
    assert (file.read_text(), [p.name for p in tmp_path.iterdir()]) == ("before", ["a.csv"])
    with written(file) as output:
        output.write("after")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("after", 0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    with written(link) as output:
        output.write("through")
    assert (link.is_symlink(), file.read_text()) == (True, "through")


def test_what_is_no_plain_file_is_written_as_it_is() -> None:
    """/dev/null and pipes are not replaced by files."""
    with written(Path("/dev/null")) as output:
        output.write("x")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    "arguments",
    [["init", "--dir", "made"], ["policy", "schema", "-o", "schema.json"], ["flows", "--csv", "a.csv"]],
)
def test_an_interrupt_before_the_end_leaves_nothing_half(arguments: list[str], tmp_path: Path) -> None:
    """Ctrl-C between writing and the last step: exit code 130, no file and no rest of one."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal\nsync = os.fsync\n"
        "def stop(n):\n    sync(n)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "os.fsync = stop\n"
    )
    home = tmp_path / "home"
    assert sekisho("replay", "--sample", "--state", home / "state", "--quiet", home=home).code == 0
    env = environment(home)
    env["PYTHONPATH"] = os.pathsep.join([str(hook), env["PYTHONPATH"]])
    done = subprocess.run(
        command(*arguments, state_dir=home / "state"),
        cwd=home,
        env=env,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (130, b"sekisho: interrupted")
    assert [
        p.name for p in home.rglob("*") if p.is_file() and "state" not in p.relative_to(home).parts[0]
    ] == []


def test_bars_are_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a pipe, a dumb terminal or beside JSON there is no bar."""
    monkeypatch.setattr("agent.cli.bars.AFTER_S", 0)
    with Bar("reading") as bar:
        bar.step(1, 2)
    assert capsys.readouterr() == ("", "")
    assert not bar._painter.is_alive()


def test_a_bar_appears_on_a_terminal_and_goes(tmp_path: Path) -> None:
    """On a terminal the bar stands on standard error while the work lasts, and standard output stays as it is."""
    code = (
        "import threading, agent.cli.bars as b\nb.AFTER_S = 0\n"
        "with b.Bar('reading [x]') as bar:\n"
        "    bar.step(1, 2)\n    wait = threading.Event()\n"
        "    while bar._painter.is_alive() and not wait.wait(0.3): break\n"
        "print('done')\n"
    )
    main, side = pty.openpty()
    env = {**environment(tmp_path), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=side,
        env=env,
        timeout=SECONDS,
        check=True,
    )
    os.close(side)
    drawn = os.read(main, 100_000)
    os.close(main)
    assert done.stdout == b"done\n"
    assert b"reading [x]" in drawn


def test_keys_are_heard_one_by_one_and_the_terminal_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters come without Enter, an arrow key is none of them, and afterwards the terminal has its lines back."""
    import termios

    main, side = pty.openpty()
    before = termios.tcgetattr(side)
    heard: list[str] = []
    done = threading.Event()

    def hear(key: str) -> None:
        heard.append(key)
        if key == "q":
            done.set()

    with os.fdopen(side, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with keys(hear):
            os.write(main, b"\x1b[A")
            while not heard and not done.wait(0.05):
                os.write(main, b"r")
            os.write(main, b"q")
            assert done.wait(SECONDS)
        assert termios.tcgetattr(side) == before
    os.close(main)
    assert set(heard) == {"r", "q"}


def _complete(home: Path, line: str) -> list[str]:
    """What a real bash offers for a line."""
    script = (
        f'eval "$({sys.executable} -m agent.cli completion bash)"\n'
        f"COMP_WORDS=({line})\n"
        f"COMP_CWORD={len(line.split()) - 1}\n"
        "_sekisho_completion sekisho\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    # Bash asks a program by its name, so there is one of that name.
    (home / "bin").mkdir(exist_ok=True)
    name = home / "bin/sekisho"
    name.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent.cli "$@"\n')
    name.chmod(0o755)
    env = environment(
        home, {"SEKISHO_STATE_DIR": str(home / "state"), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample's state and its policy in the settings."""
    home = tmp_path_factory.mktemp("completion")
    assert sekisho("replay", "--sample", "--state", home / "state", "--quiet", home=home).code == 0
    policy = Path(str(resources.files("agent"))) / "sample/policy.yaml"
    (home / "sekisho.yaml").write_text(f"policy: [{policy}]\n")
    return home


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sekisho fl", ["flows"]),
        ("sekisho cases sh", ["show"]),
        ("sekisho cases show 20", ["2026-1121-01"]),
        ("sekisho flows --store pa", ["patients"]),
        ("sekisho flows --dire", ["--direction"]),
        ("sekisho flows --by owner,cou", ["owner,country"]),
        ("sekisho replay --fail-on hi", ["high"]),
        ("sekisho --set lang", ["language="]),
        ("sekisho completion z", ["zsh"]),
    ],
)
def test_a_real_bash_completes(line: str, offered: list[str], home: Path) -> None:
    """Commands, options, choices, case ids and store names are offered."""
    assert _complete(home, line) == offered


def test_completion_says_nothing_where_nothing_is(tmp_path: Path) -> None:
    """Without state or with broken settings no case is offered, and no error is printed into the line."""
    assert _complete(tmp_path, "sekisho cases show 20") == []
    (tmp_path / "sekisho.yaml").write_text("nonsense: [")
    assert _complete(tmp_path, "sekisho cases show 20") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_is_one_of_its_shell(shell: str, tmp_path: Path) -> None:
    """The script passes the shell's own check of syntax, where that shell is there."""
    import shutil

    outcome = sekisho("completion", shell, home=tmp_path)
    assert (outcome.code, outcome.err, "_SEKISHO_COMPLETE" in outcome.out) == (0, "", True)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    file = tmp_path / "script"
    file.write_text(outcome.out)
    subprocess.run([shell, "-n", str(file)], check=True)
