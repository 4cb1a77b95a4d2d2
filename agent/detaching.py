"""Ending what a collector left at work in the kernel: hand out what it counted, then take its programs off."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.config import Loaded
from agent.core.errors import CaptureError
from collectors import ebpf, tc
from collectors.bpf.kept import KeptSettings

ENDED_FOR_GOOD: Final = ("success", "timeout")
"""Values of ``$SERVICE_RESULT`` (systemd.exec(5)) after which nobody starts the agent again; after the others its
successor takes the programs over, and what they counted meanwhile."""


@dataclass(frozen=True, slots=True)
class Left:
    """Programs of one collector that are pinned."""

    name: str
    settings: KeptSettings

    @property
    def folder(self) -> Path:
        """Where they are pinned."""
        return self.settings.folder

    def kept_for_a_successor(self, environ: Mapping[str, str]) -> str:
        """Why a service manager's stop leaves them at work; empty if it does not, and always where a person asks."""
        result = environ.get("SERVICE_RESULT")
        if result is None:
            return ""
        if result not in ENDED_FOR_GOOD:
            return f"the agent ended with {result} and is started again"
        return f"the settings say so ({self.name}.keep_on_stop)" if self.settings.kept_on_stop() else ""


def left(loaded: Loaded) -> tuple[Left, ...]:
    """What the collectors of these settings (all with their defaults, where none is named) have left at work.

    Raises :class:`CaptureError` where this user may not look.
    """
    defaults: tuple[KeptSettings, ...] = (ebpf.Settings(), tc.Settings())
    named = {name: s for name, s in loaded.stages.collectors.items() if isinstance(s, KeptSettings)}
    found = (Left(name, settings) for name, settings in (named or {s.tier: s for s in defaults}).items())
    return tuple(one for one in found if _holds_something(one.folder))


def detach(loaded: Loaded, what: tuple[Left, ...]) -> None:
    """Decide, write and send what they have counted, then remove them.

    Raises :class:`SekishoError` if something may have gone wrong; then nothing that was counted is let go.
    """
    from agent.runtime import Runtime  # here: every stop of the unit asks what is left, and most find nothing

    ending = {one.name: one.settings.ending() for one in what}
    stages = replace(loaded.stages, collectors=ending)
    try:
        with Runtime(replace(loaded, stages=stages)) as run:
            run.stop.set()
            run.go()
    finally:
        _hand_over(loaded.settings.state_dir)
    reasons = [f"{name}: {error}" for name, error in run.pipeline.failures.items()]
    still = [str(one.folder) for one in what if _holds_something(one.folder)]
    if reasons or still:
        reasons = reasons or ["what was counted could not be made durable in time"]
        folders = " ".join(still) or "nothing"
        raise CaptureError(
            "\n".join(reasons)
            + f"\nstill pinned: {folders}; try again, or let go of what was counted with rm -r"
        )


def _hand_over(folder: Path) -> None:
    """Give what root has written below a folder of another user to that user, whose next start could not read it else.

    Follows no link, and leaves alone what has a second name: that may lie elsewhere.
    """
    if os.geteuid() or not folder.is_dir():
        return
    owner = folder.stat()
    if not owner.st_uid:
        return
    for _, folders, files, inside in os.fwalk(folder):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=inside, follow_symlinks=False)
            plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if plain and not found.st_uid:
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=inside, follow_symlinks=False)


def _holds_something(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(folder.iterdir())
    except PermissionError:
        raise CaptureError(
            f"{folder} may not be looked into: run as root, or let the service manager stop the agent"
        ) from None
