"""Names of Kubernetes pods, by the folders and links that the kubelet itself makes for each pod's logs.

    /var/log/pods/<namespace>_<name>_<uid>/                          (kubelet, since 1.14)
    /var/log/containers/<name>_<namespace>_<container>-<id>.log      (a link; older and other runtimes)

Only these names are read, no log. The runtimes' own files (config.json of containerd and CRI-O) would tell too, but hold
the command line and environment of the container, which are never read.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.core.clock import SECOND_NS
from collectors.host.cgroups import Place

_POD: Final = re.compile(
    r"([a-z0-9.-]{1,253})_([a-z0-9.-]{1,253})_([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})"
)
_CONTAINER: Final = re.compile(
    r"([a-z0-9.-]{1,253})_([a-z0-9.-]{1,253})_[a-z0-9.-]{1,253}-([0-9a-f]{64})\.log"
)
_MOST: Final = 20_000
_LOOK_AGAIN_NS: Final = 5 * SECOND_NS


class Pods:
    """``namespace/name`` by a pod's uid, or by a container's id. Not thread-safe."""

    def __init__(self, logs: Path = Path("/var/log")) -> None:
        self._logs = logs
        self._names: dict[str, str] = {}
        self._looked_ns: int | None = None

    def named(self, place: Place, now_ns: int) -> Place:
        """The place with its pod's name, where it has a pod and the kubelet's files tell. An unknown one makes them be
        listed anew, at most every 5 s. ``now_ns`` is monotonic.
        """
        if place.pod_uid is None and place.container is None:
            return place
        keys = [key for key in (place.pod_uid, place.container) if key is not None]
        long_ago = self._looked_ns is None or now_ns - self._looked_ns >= _LOOK_AGAIN_NS
        if long_ago and not any(key in self._names for key in keys):
            self._looked_ns = now_ns
            self._list()
        name = next((self._names[key] for key in keys if key in self._names), None)
        return place if name is None else replace(place, pod=name)

    def _list(self) -> None:
        # Names of pods that are gone stay for rows still to come, as long as there is room.
        if len(self._names) > _MOST:
            self._names = {}
        for folder, form, order in (("pods", _POD, "{0}/{1}"), ("containers", _CONTAINER, "{1}/{0}")):
            try:
                names = os.listdir(self._logs / folder)  # noqa: PTH208  no object per name
            except OSError:
                continue  # no kubelet here, or not for us to read
            for name in names[:_MOST]:
                if found := form.fullmatch(name):
                    self._names[found[3]] = order.format(found[1], found[2])
