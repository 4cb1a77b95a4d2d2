"""Folders of captures, as tools that rotate their output leave them (``tcpdump -C``, ``-G``, ``dumpcap -b``).

A folder stands for the captures in it. Which those are is told by name or by content; what is left out is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core.errors import CaptureError
from collectors.captures.files import STDIN, looks_like_capture

_NAME: Final = re.compile(
    r"\.(pcap|pcapng|cap|dmp|ntar)\d*([._-]+[A-Za-z0-9:]+)*(\.(gz|xz|zst))?$", re.IGNORECASE | re.ASCII
)
GONE: Final = "was removed before it was read"
_NUMBER: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a list of files and folders stands for."""

    files: tuple[Path, ...]
    """Every file by itself as given, every folder as its captures in order of their names, numbers as numbers."""
    left_out: dict[Path, str] = field(default_factory=dict)
    """What lies in a folder and is not read, and why."""
    faults: tuple[CaptureError, ...] = ()
    """Folders that cannot be listed or hold no capture."""
    found: frozenset[Path] = frozenset()
    """Those of ``files`` that nobody named: they were found in a folder, and whoever rotates it may remove them."""


def choose(paths: Iterable[Path]) -> Chosen:
    """The files that ``paths`` stand for; looks into folders and at the beginning of what may be a capture.

    A file given by itself is always taken: what is wrong with it is a fault. Of a folder are left out: sub-folders,
    hidden files, empty files (a capture that has just been begun), what is no plain file, and what is a capture
    neither by its name (``.pcap``, ``.pcapng``, ``.cap``, ``.dmp``, with a number or a compression behind it) nor by
    its content.
    """
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    faults: list[CaptureError] = []
    found: set[Path] = set()
    for path in paths:
        if path == STDIN or not _is_folder(path):
            files.append(path)
            continue
        try:
            entries = sorted(path.iterdir(), key=lambda entry: _in_parts(entry.name))
        except OSError as error:
            faults.append(CaptureError(f"{path}: cannot be listed ({error.strerror}); check its permissions"))
            continue
        reasons = {entry: _reason(entry) for entry in entries}
        chosen = [entry for entry, reason in reasons.items() if not reason]
        files += chosen
        found.update(chosen)
        left_out |= {entry: reason for entry, reason in reasons.items() if reason}
        if not chosen:
            faults.append(
                CaptureError(f"{path}: holds no capture; name its sub-folders or other files by themselves")
            )
    return Chosen(tuple(files), left_out, tuple(faults), frozenset(found))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # whoever reads it says why it cannot be reached


def _in_parts(name: str) -> list[tuple[int, str]]:
    """``cap.pcap2`` before ``cap.pcap10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name)]


def _reason(entry: Path) -> str:
    """Why an entry is left out; nothing for a capture."""
    if entry.name.startswith("."):
        return "is hidden"
    try:
        if entry.is_dir():
            return "is a folder; name it by itself to read it"
        if not entry.is_file():
            return "is no plain file" if entry.is_symlink() or entry.exists() else GONE
        if not entry.stat().st_size:
            return "is empty"
        if _NAME.search(entry.name) or looks_like_capture(entry):
            return ""
    except (CaptureError, OSError):
        return ""  # it cannot be read: whoever reads it says so, for it may have been a capture
    return "is no capture by its name or content"
