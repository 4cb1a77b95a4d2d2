"""What a group of processes is charged: CPU by the kernel's own account, to the microsecond, and memory with its maps."""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from collectors.host.cgroups import mounted
from tests.tools.netns import wait_for

_MEMORY_V1 = Path("/sys/fs/cgroup/memory")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU."""

    user_s: float
    system_s: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)

    @property
    def whole_s(self) -> float:
        """User and system."""
        return self.user_s + self.system_s

    @property
    def kernel_share(self) -> float:
        """System's share of the whole."""
        return self.system_s / self.whole_s if self.whole_s else 0.0


class Charged:
    """A control group of this run's own. Every process in it counts, also those that have ended. Close it."""

    def __init__(self, name: str) -> None:
        mount = mounted()
        if mount is None:
            raise RuntimeError("no control groups of version 2 are mounted; the bench reads CPU from them")
        # Same form as the truth bench's, so that one sweep finds both.
        label = f"sekisho-truth-{os.getpid()}-{name}{next(_numbers)}"
        self.folder = mount / label
        places = [self.folder]
        if (_MEMORY_V1 / "memory.usage_in_bytes").exists():
            places.append(_MEMORY_V1 / label)
        for place in places:
            place.mkdir()
        self._places = places

    def line(self, *words: str) -> list[str]:
        """The same command, run in this group from its first instruction on."""
        join = "".join(f"echo $$ > {place}/cgroup.procs; " for place in self._places)
        # With autogroup (sched(7)) a nice value only ranks a process within its session; this ranks the session.
        join += "echo -20 2>/dev/null > /proc/self/autogroup; "
        return ["sh", "-c", f'{join}exec "$@"', "sh", *words]

    def cpu(self) -> Cpu:
        """What all of it has used until now."""
        found = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return Cpu(int(found["user_usec"]) / 1e6, int(found["system_usec"]) / 1e6)

    def memory_mib(self) -> float | None:
        """What the kernel charges it now, less what it can take back at once; None where nothing counts.

        Pages, BPF maps, and the page cache in use (usage less inactive_file, as the kubelet reads it).
        """
        kinds = (
            (self._places[-1], "memory.usage_in_bytes", "total_inactive_file"),
            (self.folder, "memory.current", "inactive_file"),
        )
        for place, name, spare in kinds:
            with contextlib.suppress(OSError):
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                return (int((place / name).read_text()) - int(stat[spare])) / 2**20
        return None

    def pids(self) -> list[int]:
        """Its processes."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def resident_mib(self) -> tuple[float, float]:
        """RSS and PSS of its processes."""
        found = {"Rss:": 0, "Pss:": 0}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line[:4] in found:
                        found[line[:4]] += int(line.split()[1])
        return found["Rss:"] / 1024, found["Pss:"] / 1024

    def close(self) -> None:
        """Remove it; its processes must have ended."""
        for place in self._places:
            wait_for(lambda place=place: _removed(place), f"{place} to empty")


def _removed(place: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, OSError):
        place.rmdir()
    return not place.exists()
