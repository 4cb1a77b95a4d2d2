"""What a run that was killed could not remove: namespaces, control groups and mounts whose process is gone.

Names of the truth bench hold the process that made them: ``skh12345x0``, ``sekisho-truth-12345-0``.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from collectors.host.cgroups import mounted

_NAMESPACE = re.compile(r"sk[a-z](\d+)x\d+")
_NAMED = re.compile(r"sekisho-truth-(\d+)(?:-.*)?")


def sweep() -> None:
    """Remove everything that a dead run left behind."""
    for place in _of_the_dead(Path("/run/netns"), _NAMESPACE):
        subprocess.run(("ip", "netns", "del", place.name), check=False, capture_output=True)
    for parent in (mounted(), Path("/sys/fs/cgroup/memory")):
        for place in _of_the_dead(parent, _NAMED) if parent is not None else ():
            for folder in (*(p for p in place.iterdir() if p.is_dir()), place):
                with contextlib.suppress(OSError):
                    folder.rmdir()
    for place in _of_the_dead(Path("/run"), _NAMED):
        subprocess.run(("umount", str(place)), check=False, capture_output=True)
        with contextlib.suppress(OSError):
            place.rmdir()


def _of_the_dead(folder: Path, name: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    found = ((place, name.fullmatch(place.name)) for place in folder.iterdir())
    return [place for place, match in found if match and not Path(f"/proc/{match[1]}").exists()]
