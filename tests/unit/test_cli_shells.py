"""Completion typed into the shells themselves, and the manual page read by a reader of manual pages."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools.places import ROOT
from tests.tools.program import environment

WORDS = (
    ("sekisho flo", "flows"),
    ("sekisho flows --dir", "--direction"),
    ("sekisho flows --by owner,cou", "owner,country"),
    ("sekisho replay --tunnels inn", "inner"),
    ("sekisho --set lang", "language="),
)
"""What was typed, and the one word that it is completed to."""


def needs(shell: str) -> str:
    """Its path; skips the test where it is not installed."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    return path


def surroundings(home: Path) -> dict[str, str]:
    """An environment in which ``sekisho`` is a command."""
    folder = home / "bin"
    folder.mkdir()
    command = folder / "sekisho"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m agent.cli "$@"\n')
    command.chmod(0o755)
    made = environment(home)
    return {**made, "PATH": f"{folder}:{made['PATH']}", "TERM": "dumb", "PS1": "> "}


def test_bash_completes(tmp_path: Path) -> None:
    """Bash, asked as it asks while somebody types, is offered the word."""
    lines = ['eval "$(sekisho completion bash)"']
    for typed, _ in WORDS:
        words = typed.split(" ")
        lines += [f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()"]
        lines += ['_sekisho_completion sekisho; echo "${COMPREPLY[@]}"']
    done = subprocess.run(
        [needs("bash"), "--norc", "-c", "\n".join(lines)],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == ([word for _, word in WORDS], "")


def test_fish_completes(tmp_path: Path) -> None:
    """Fish is offered the word, a comma in it or not, with the whole of its help."""
    asked = [f"complete -C {shlex.quote(typed)}" for typed, _ in WORDS]
    done = subprocess.run(
        [needs("fish"), "-N", "-c", "\n".join(["sekisho completion fish | source", *asked])],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    offered = dict(line.partition("\t")[::2] for line in done.stdout.splitlines())
    assert (list(offered), done.stderr) == ([word for _, word in WORDS], "")
    assert offered["flows"] == "query the archive of flows: filter, sum, export"


def test_zsh_completes(tmp_path: Path) -> None:
    """Zsh on a terminal, with its own completion system, writes the rest of the word after a tab."""
    shell, env = needs("zsh"), surroundings(tmp_path)
    child, terminal = pty.fork()
    if child == 0:
        os.execve(shell, [shell, "-f", "-i"], env)
    try:
        ready = 'autoload -U compinit; compinit -u -D; eval "$(sekisho completion zsh)"; echo rea""dy\n'
        _typed(terminal, ready, "\nready")
        for typed, word in WORDS:
            _typed(terminal, f"\x15{typed}\t", word)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def _typed(terminal: int, keys: str, until: str) -> None:
    """Type, and wait for what is to be seen then."""
    os.write(terminal, keys.encode())
    seen, end = b"", time.monotonic() + 60
    while until.encode() not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)


def test_the_manual_page_is_one() -> None:
    """mandoc finds no error in docs/man/sekisho.1, and shows every command's name."""
    page = ROOT / "docs/man/sekisho.1"
    lint = subprocess.run(
        [needs("mandoc"), "-T", "lint", "-W", "error", str(page)], capture_output=True, text=True, check=False
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
    shown = subprocess.run(["mandoc", "-T", "ascii", str(page)], capture_output=True, text=True, check=True)
    plain = re.sub(".\b", "", shown.stdout)
    for name in ("check", "db install", "up", "top", "replay", "cases show", "flows", "who", "policy check"):
        assert f"sekisho {name} [OPTIONS]" in plain
