"""Named places at which a test may kill the program, to see what a restart makes of it.

Off unless ``SEKISHO_FAULTS`` names one when the program starts, such as ``commit.after_ledger:3``: at the third pass
of that place the process kills itself with SIGKILL, so that nothing is flushed and nothing is tidied. Several are
joined by commas. Off, a place costs one look at a module variable.
"""

from __future__ import annotations

import os
import signal
from typing import Final

FAULT_POINTS: Final = (
    "detect.after_apply",
    "commit.before_begin",
    "commit.after_fence",
    "commit.after_sequences",
    "commit.after_detector",
    "commit.after_ledger",
    "commit.after_findings",
    "commit.after_cases",
    "commit.after_outbox",
    "commit.after_position",
    "commit.after_commit",
    "outbox.before_send",
    "outbox.after_send",
    "outbox.after_mark",
    "coverage.after_send",
    "archive.after_journal",
    "archive.after_parquet",
    "archive.after_rename",
    "archive.after_unlink",
    "spool.after_append",
    "spool.after_note",
    "send.after_journal",
    "send.after_append",
    "send.after_send",
    "send.after_ack",
    "ebpf.before_pins",
    "ebpf.after_link",
    "ebpf.after_note",
    "ebpf.after_swap",
    "ebpf.in_read",
    "ebpf.after_read",
    "ebpf.before_clear",
    "ebpf.in_clear",
    "ebpf.after_clear",
    "ebpf.in_resume",
    "ebpf.after_detach",
    "ebpf.before_removal",
)
"""Every name, in the order in which the program passes them."""

VARIABLE: Final = "SEKISHO_FAULTS"


def parse(text: str) -> dict[str, int]:
    """``name[:pass]``, joined by commas, as name -> passes left. Raises ``ValueError`` for a name that is not known."""
    armed: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, count = part.partition(":")
        if name not in FAULT_POINTS:
            raise ValueError(f"{VARIABLE}: no fault point {name!r}; known are {', '.join(FAULT_POINTS)}")
        armed[name] = int(count or 1)
    return armed


_armed: dict[str, int] = parse(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Set anew what :data:`VARIABLE` set at start; for a test's own child process."""
    _armed.clear()
    _armed.update(parse(text))


def faultpoint(name: str) -> None:
    """Kill this process if a test asked for it here and now; else nothing."""
    if not _armed:
        return
    if name not in FAULT_POINTS:
        raise ValueError(f"fault point {name!r} is missing in FAULT_POINTS")
    left = _armed.get(name, 0)
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _armed[name] = left - 1
