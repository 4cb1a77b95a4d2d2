"""What a run that was killed could not remove: namespaces, control groups and mounts whose process is gone.

Names hold the process that made them: ``skh12345x0`` and ``sekisho-truth-12345-0`` of the truth bench, ``skp123450`` (with a
number of its own at the end) of ``tests.tools.netns``.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from collectors.host.cgroups import mounted

NAMESPACE = re.compile(r"sk[a-z](\d+)x\d+")
_PAIR = re.compile(r"sk[a-z](\d+)")
_NAMED = re.compile(r"sekisho-truth-(\d+)(?:-.*)?")


def sweep() -> None:
    """Remove everything that a dead run left behind."""
    for place in (*of_the_dead(Path("/run/netns"), NAMESPACE), *_pairs_of_the_dead()):
        subprocess.run(("ip", "netns", "del", place.name), check=False, capture_output=True)
    for parent in (mounted(), Path("/sys/fs/cgroup/memory")):
        for place in of_the_dead(parent, _NAMED) if parent is not None else ():
            for folder in (*(p for p in place.iterdir() if p.is_dir()), place):
                with contextlib.suppress(OSError):
                    folder.rmdir()
    for place in of_the_dead(Path("/run"), _NAMED):
        subprocess.run(("umount", str(place)), check=False, capture_output=True)
        with contextlib.suppress(OSError):
            place.rmdir()


def _pairs_of_the_dead() -> list[Path]:
    """Those of which no beginning of the number is a process that lives."""
    out = []
    for place in Path("/run/netns").glob("sk*"):
        match = _PAIR.fullmatch(place.name)
        if match and not any(Path(f"/proc/{match[1][:n]}").exists() for n in range(3, len(match[1]))):
            out.append(place)
    return out


def of_the_dead(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """What bears such a name in a folder, with the number of a process that is gone."""
    if not folder.is_dir():
        return []
    found = ((place, name.fullmatch(place.name)) for place in folder.iterdir())
    return [place for place, match in found if match and not Path(f"/proc/{match[1]}").exists()]
