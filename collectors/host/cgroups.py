"""What the path of a control group says: systemd unit, container, pod. And which path a control group's id stands for.

Patterns: systemd.unit(5), Kubernetes' cgroupfs and systemd drivers, Docker, containerd, CRI-O, Podman, LXC.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.core.clock import SECOND_NS

_CONTAINER: Final = re.compile(r"(?:^|[/:.-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
"""``docker-ID.scope``, ``docker/ID``, ``cri-containerd-ID.scope``, ``…:cri-containerd:ID``, ``crio-ID``, ``libpod-ID``."""
_MONITOR: Final = "conmon-"
"""``crio-conmon-ID.scope`` and ``libpod-conmon-ID.scope`` hold the container's monitor, which is not in it."""
_LXC: Final = re.compile(r"/lxc(?:\.payload\.|/)([^/]+)")
_POD: Final = re.compile(r"/(?:kubepods[^/]*-)?pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})(?:\.slice)?(?=[/:]|$)")  # fmt: skip
_MOST_GROUPS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process or socket belongs, by its control group. None: unknown, or none of that kind."""

    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    """Its ``namespace/name`` where that is told (:mod:`collectors.host.pods`), else its uid."""
    pod_uid: str | None = None


def place_of(path: str) -> Place:
    """What a control group's path says."""
    if path in ("", "/"):
        return Place(cgroup=path or None)
    containers = [m for m in _CONTAINER.finditer(path) if not path[: m.start(1)].endswith(_MONITOR)]
    named = _LXC.search(path)
    container = containers[-1][1] if containers else named[1] if named else None
    found = _POD.search(path) if "kubepods" in path else None
    pod = found[1].replace("_", "-") if found else None
    return Place(
        cgroup=path,
        unit=_unit(path),
        container=container,
        pod=pod,
        pod_uid=pod,
    )


def _unit(path: str) -> str | None:
    """The first service or scope on the way down; the scope of a container is none of systemd's own."""
    for part in path.split("/"):
        if part.endswith(".service") or (part.endswith(".scope") and not _CONTAINER.search(part)):
            return part.removeprefix("_")
    return None


def path_of(table: str) -> str | None:
    """The path in a ``/proc/PID/cgroup``: version 2's, or where that says nothing systemd's, or any other's."""
    paths = {}
    for line in table.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths[parts[1]] = parts[2]
    ranked = (paths.get(""), paths.get("name=systemd"), *paths.values())
    return next((p for p in ranked if p not in (None, "", "/")), "/" if paths else None)


class Groups:
    """Paths of control groups by id, which is the inode number of their folder below ``root`` (cgroup version 2)."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        self._looked_ns: int | None = None
        self._took_ns = 0
        """CPU time of the last listing."""
        self._counted = b""

    def look(self, now_ns: int) -> None:
        """List anew, so that a group that lives for a second is known when its rows are read: where their number changed
        for 1 % of a core at most, else for 0.5 %. ``now_ns`` is monotonic.
        """
        if self._root is None:
            return
        since_ns = now_ns - self._looked_ns if self._looked_ns is not None else 1 << 62
        if since_ns < max(SECOND_NS // 2, 100 * self._took_ns):
            return
        try:
            counted = (self._root / "cgroup.stat").read_bytes()
        except OSError:
            return
        if counted != self._counted or since_ns >= 200 * self._took_ns:
            self._counted, self._looked_ns = counted, now_ns
            self._list(self._root)

    def path(self, group: int, now_ns: int) -> str | None:
        """The path of one; an unknown one makes all be listed anew, for 1 % of a core at most. ``now_ns`` is monotonic."""
        long_ago = self._looked_ns is None or now_ns - self._looked_ns >= 100 * self._took_ns
        if group not in self._paths and self._root is not None and long_ago:
            self._looked_ns = now_ns
            self._list(self._root)
        return self._paths.get(group)

    def _list(self, root: Path) -> None:
        began_ns = time.thread_time_ns()
        paths: dict[int, str] = {}
        waiting: deque[tuple[bytes, str]] = deque([(os.fsencode(root), "/")])
        while waiting and len(paths) < _MOST_GROUPS:
            folder, path = waiting.popleft()
            try:
                paths[os.stat(folder).st_ino] = path  # noqa: PTH116
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # it was removed meanwhile
            for name in names:
                below = f"{path.rstrip('/')}/{name.decode(errors='replace')}"
                waiting.append((folder + b"/" + name, below))
        # Rows of groups that are gone may still come; an id is not used again (64 bits, counted up).
        kept = {} if len(self._paths) > 2 * _MOST_GROUPS else self._paths
        self._paths = kept | paths
        self._took_ns = time.thread_time_ns() - began_ns


def mounted(table: Path = Path("/proc/self/mounts")) -> Path | None:
    """Where cgroup version 2 is mounted; None where it is not."""
    try:
        lines = table.read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = [parts[1] for parts in map(str.split, lines) if len(parts) > 2 and parts[2] == "cgroup2"]
    return Path(found[0]) if found else None
