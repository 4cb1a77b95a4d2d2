"""Policy files, packs and git work trees for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

OWN_PACK = """\
pack: our-contracts
version: "1"
title: {en: What our contracts say, ja: 契約上の定め}
state: in_force
needs_attestation: false
sources: [{cite: contract 2026-17, read: 2026-10-01, mark: V}]
rules:
  - id: lab-results
    categories: [personal_health]
    over: 20 MB
    tests:
      - {name: 50 MB, given: [{sends: 50 MB}], expect: medium}
"""
"""A pack of an operator's own, without a fault."""


def git(folder: Path, *words: str) -> str:
    """What git says in a folder, with no settings of this host."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = {
        f"GIT_{role}_{what}": "a@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    none = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env=plain | who | none, check=True, capture_output=True, text=True
    )
    return done.stdout


def in_git(folder: Path, *names: str) -> None:
    """Keep files in a work tree of two commits that differ in a remark."""
    git(folder, "init", "-q")
    git(folder, "add", *names)
    git(folder, "commit", "-q", "-m", "first")
    with (folder / names[0]).open("a") as file:
        file.write("# a remark\n")
    git(folder, "commit", "-q", "-a", "-m", "second")
