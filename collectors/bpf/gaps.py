"""Time in which nothing was counted: found at the next start, or when programs are put back, and bounded by counters.

While it counts, the agent notes in a small file until when all it counted is durable, and how the interfaces stood then.
Whoever counts on with the same maps misses nothing. Whoever finds the note of maps that are gone knows from when on
nothing is known, and that no more can have passed than the interfaces counted since.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.accounts import Unobserved
from agent.core.clock import SECOND_NS
from agent.core.log import Log
from collectors.bpf.reconcile import Counters

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Note:
    """How things stood when all that was counted was durable."""

    instance: str
    """Of the maps that counted."""
    wall_ns: int
    boot_ns: int
    boot_id: str
    counters: Counters
    """Of the uplinks (or of the interfaces that are watched), not later than that."""
    counted_out: int = 0
    """Octets that were counted after the counters were read, and are durable too."""
    counted_in: int = 0

    def gap(self, counters: Counters, wall_ns: int, boot_ns: int, boot_id: str) -> Unobserved:
        """From the note until now. After a start of the machine the interfaces' counters bound nothing, nor do those of
        an interface that is gone.
        """
        if boot_id != self.boot_id:
            return Unobserved(max(wall_ns - self.wall_ns, 0) / SECOND_NS, None, None)
        if self.counters.links.keys() - counters.links.keys():
            return Unobserved(max(boot_ns - self.boot_ns, 0) / SECOND_NS, None, None)
        _, _, octets_in, octets_out = counters.since(self.counters).links[0]
        return Unobserved(
            max(boot_ns - self.boot_ns, 0) / SECOND_NS,
            max(octets_out - self.counted_out, 0),
            max(octets_in - self.counted_in, 0),
        )


def boot_id(path: Path = _BOOT_ID) -> str:
    """What tells this run of the machine from others; empty where the kernel does not say."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class Diary:
    """Keeps the newest note. Where the file cannot be written, it is kept in memory alone, and that is logged once."""

    def __init__(self, path: Path, tier: str = "ebpf") -> None:
        self._log = Log(part=tier)
        self._path = path
        self._note: Note | None = None
        self._told = False

    def last(self) -> Note | None:
        """The newest note: of this run, else what a run before it left."""
        if self._note is not None:
            return self._note
        try:
            value = json.loads(self._path.read_text())
            return Note(
                instance=str(value["instance"]),
                wall_ns=int(value["wall_ns"]),
                boot_ns=int(value["boot_ns"]),
                boot_id=str(value["boot_id"]),
                counters=Counters.from_json(value["counters"]),
                counted_out=int(value["counted_out"]),
                counted_in=int(value["counted_in"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warning("note_not_readable", path=str(self._path), reason=str(error))
            return None

    def write(self, note: Note) -> None:
        """Put a note in the last one's place."""
        self._note = note
        value = {name: getattr(note, name) for name in Note.__slots__} | {"counters": note.counters.as_json()}
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(value))
            os.replace(new, self._path)  # noqa: PTH105
        except OSError as error:
            if not self._told:
                self._log.warning(
                    "note_not_written",
                    path=str(self._path),
                    reason=error.strerror,
                    cost="if the agent is killed and its maps are gone, nobody learns for how long nothing was counted",
                )
            self._told = True

    def forget(self) -> None:
        """The run ended in order: what comes until the next one is no gap of it."""
        self._note = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return  # the folder is not there, or not ours: nothing was written either
