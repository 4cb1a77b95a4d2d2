"""The eBPF collector at work on one control group, for live tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.core.accounts import Accounts, Amounts
from agent.core.clock import Clock, SystemClock
from agent.core.flow import FlowBatch, concat
from agent.core.stages import Context
from collectors.bpf import libbpf
from collectors.ebpf import Ebpf, Settings
from tests.tools.hosting import Group
from tests.tools.netns import Task, wait_for

_CGROUP_LINK = 3  # BPF_LINK_TYPE_CGROUP
Rows = list[dict[str, Any]]


class Capture:
    """The collector in a thread, in the group's namespace."""

    def __init__(
        self,
        group: Group,
        *,
        state_dir: Path = Path("/nonexistent"),
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        self.accounts = Accounts()
        self.batches: list[FlowBatch] = []
        self.stop = threading.Event()
        self.started = threading.Event()
        given = {"pin": False, "interval": 1, "cgroup": group.folder} | settings
        context = Context(accounts=self.accounts, state_dir=state_dir, clock=clock or SystemClock())
        collector = Settings.model_validate(given).build(context)
        assert isinstance(collector, Ebpf)
        self.collector = collector
        self.task = Task(group.space, self._collect)

    def _collect(self) -> None:
        for batch in self.collector.collect(self.stop):
            self.batches.append(batch)
            self.started.set()

    def packets(self) -> int:
        """Packets sent, of all rows so far."""
        return sum(int(batch["packets_out"].sum()) for batch in list(self.batches))

    def rows(self, *, protocols: tuple[int, ...] = (6, 17)) -> Rows:
        """Stop it; all its rows. Checks the account."""
        self.stop.set()
        self.task.result()
        whole = concat([b for b in self.batches if len(b)])
        account = self.accounts.check().read()
        assert account.in_memory == whole.amounts()
        assert account.in_kernel == Amounts()
        return [row for row in whole.rows() if row["protocol"] in protocols]


@contextlib.contextmanager
def capturing(group: Group, **more: Any) -> Iterator[Capture]:
    """A capture that has begun; stopped at the end."""
    capture = Capture(group, **more)
    try:
        wait_for(lambda: capture.started.is_set() or capture.task.done, "the capture to begin")
        yield capture
    finally:
        capture.stop.set()
        capture.task.result()


def take_off(folder: Path) -> int:
    """Take every program off a control group, as another tool with the right to may; how many (bpf(2): LINK_DETACH)."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    group, number, taken = folder.stat().st_ino, ctypes.c_uint32(0), 0
    while not library.bpf_link_get_next_id(number, ctypes.byref(number)):
        link = library.bpf_link_get_fd_by_id(number)
        if link < 0:
            continue
        info, size = libbpf.LinkInfo(), ctypes.c_uint32(ctypes.sizeof(libbpf.LinkInfo))
        library.bpf_obj_get_info_by_fd(link, ctypes.byref(info), ctypes.byref(size))
        if info.type == _CGROUP_LINK and info.cgroup == group:
            assert library.bpf_link_detach(link) == 0
            taken += 1
        os.close(link)
    return taken
