"""The captures that benches read: made once, kept in ``.cache/bench`` with what is true of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from tests.tools.places import ROOT
from tests.tools.truth import Truth

CACHE = ROOT / ".cache/bench"
PIECE = 2_000_000
"""Packets made at a time; a larger capture is several pieces, one minute of made-up time each, with sessions of their own."""


def capture(packets: int, sessions: int) -> tuple[Path, Truth]:
    """A capture of so many packets and sessions (a session is two one-way flows)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    file = CACHE / f"{packets}-{sessions}.pcap"
    told = file.with_suffix(".json")
    if not told.exists():
        pieces = max(1, packets // PIECE)
        truths = []
        with file.open("wb") as whole:
            for number in range(pieces):
                part = file.with_suffix(".part")
                truths.append(_made(part, packets // pieces, sessions // pieces, number))
                body = part.read_bytes()
                whole.write(body if number == 0 else body[24:])
                part.unlink()
        sums = {f.name: sum(getattr(t, f.name) for t in truths) for f in dataclasses.fields(Truth)}
        told.write_text(json.dumps(sums))
    return file, Truth(**json.loads(told.read_text()))


def _made(file: Path, packets: int, sessions: int, number: int) -> Truth:
    """In a process of its own, so that its memory is given back."""
    words = [str(file), str(packets), str(sessions), str(number)]
    command = [sys.executable, "-m", "tests.tools.truth", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Truth(**json.loads(done.stdout))
