"""Host capture in the kernel: what every process and container of this host sends and receives, exactly and by whom.

Programs at the root control group count each packet at its socket (``collectors/bpf/flow.bpf.c``); here their maps are
read every ``interval``, and become rows. Nothing is done per packet outside the kernel. What was counted survives this
process, pinned in the BPF file system: see docs/capture.md.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final, Self

from pydantic import Field

from agent.core.errors import CaptureError
from agent.core.flow import FlowBatch
from agent.core.log import Log
from agent.core.stages import Collector, Context
from collectors.bpf.atsockets import AtSockets
from collectors.bpf.counting import How
from collectors.bpf.gaps import Diary
from collectors.bpf.kept import Kept, KeptSettings
from collectors.bpf.pins import LINK
from collectors.bpf.programs import POLITE, Programs, Wish, at_work, back_fill, hooks_for
from collectors.bpf.refusal import require_libbpf
from collectors.bpf.roots import watched
from collectors.host import rights
from collectors.host.interfaces import HostWatch

_LOG: Final = Log(part="ebpf")
_KEPT_RIGHTS: Final = frozenset({"bpf", "sys_ptrace", "dac_read_search", "dac_override"})
"""CAP_BPF to read maps (before Linux 6.0, where unprivileged BPF is off); the others to read /proc, where given."""


class Settings(KeptSettings):
    """Count in the kernel, with the process of every flow (needs root or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)."""

    needs: ClassVar[frozenset[str]] = frozenset({"cap_bpf", "cap_net_admin", "cap_perfmon"})
    tier = "ebpf"
    rights = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    kernel = "Linux 5.11 or newer with CONFIG_CGROUP_BPF"

    cgroup: Path | None = Field(
        None,
        description="Folder of the control group (version 2) to watch, with all below it; none is the whole host",
    )
    loopback: bool = Field(False, description="Also keep traffic within the host (interface lo)")
    keep_on_stop: bool = Field(
        False, description="Keep counting after an orderly stop too, for a restart that misses nothing"
    )

    def build(self, context: Context) -> Collector:
        """The collector; opens nothing yet."""
        return Ebpf(self, context)

    def hindrance(self) -> str:
        """Why it cannot run here; found by loading the programs."""
        try:
            with watched(self.cgroup):
                self.load("flow")
        except CaptureError as error:
            return str(error)
        return ""

    def shortcomings(self) -> tuple[str, ...]:
        """What it would do without here. Only where it can run at all."""
        out = []
        with watched(self.cgroup) as root:
            if hooks_for(root.folder, _pinned_hooks(self.folder))[1]:
                out.append(
                    "another tool's programs stand on this host's connect and sendmsg hooks, so ours are left out: a "
                    "socket that one process makes and another uses is shown with the first"
                )
        if not Path("/sys/kernel/btf/vmlinux").exists():
            out.append(
                "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF), so sockets older than the agent have no process"
            )
        if told := self.without_pins():
            out.append(told)
        return tuple(out)

    def kept_on_stop(self) -> bool:
        """See :class:`KeptSettings`."""
        return self.keep_on_stop

    def ending(self) -> Self:
        """See :class:`KeptSettings`."""
        return self.model_copy(update={"keep_on_stop": False})


class Ebpf(Kept):
    """The collector. Interface names are those of the network namespace of the thread that runs ``collect``."""

    name = "ebpf"
    not_seen: tuple[str, ...] = ("forwarded", "raw_frames", "bypass", "local_sockets", "before_start")

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._settings = settings

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows every ``interval``, and a batch at least once a second, until ``stop``; then all that is left.

        Raises :class:`CaptureError` where the kernel or its rights do not allow it.
        """
        require_libbpf(self._settings.libbpf, self.name)
        diary = Diary(self._context.state_dir / f"ebpf-{self._settings.instance}.json")
        put_back = False
        while (yield from self._count(stop, diary, put_back)):
            put_back = True

    def _count(self, stop: threading.Event, diary: Diary, put_back: bool) -> Generator[FlowBatch, None, bool]:
        """Count until ``stop``, or until the programs were taken off by somebody else: gives whether it was that."""
        settings = self._settings
        with ExitStack() as held:
            root = held.enter_context(watched(settings.cgroup))
            pins = settings.open_pins(held)
            self.pinned = pins is not None
            try:
                hooks, left_out = hooks_for(root.folder, _pinned_hooks(settings.folder))
                wish = Wish(root.folder, settings.map_flows, hooks)
                programs, older = held.enter_context(at_work(wish, pins))
            except OSError as error:
                raise settings.plain(error) from error
            if left_out:
                _LOG.warning(
                    "hooks_left_out", hooks=list(left_out), reason="another tool's programs are there"
                )
            back_filled = _back_filled(programs)
            watch = held.enter_context(HostWatch())
            _LOG.info(
                "programs_put_back" if put_back else "capture_started",
                tier="ebpf",
                cgroup=root.name,
                pinned=pins is not None,
            )
            if os.geteuid():
                _LOG.info("rights_given_up", kept=sorted(rights.keep_only(_KEPT_RIGHTS)))
            how = How(settings.keep_on_stop)
            counting = AtSockets(
                self, how, self._context, root, back_filled, watch, diary, loopback=settings.loopback
            )
            return (yield from counting.run(stop, programs, older, self._position))


def _pinned_hooks(folder: Path) -> dict[str, int]:
    """How many programs of our own stand on each hook that other tools use too, kept from an earlier run."""
    try:
        return {name: len(list(folder.glob(f"*/{LINK}{name}"))) for name in POLITE}
    except PermissionError:
        return dict.fromkeys(POLITE, 0)  # another user's folder: nothing in it is ours to take over


def _back_filled(programs: Programs) -> bool:
    """Stamp the sockets that are older than the programs; whether that could be done."""
    try:
        stamped = back_fill(programs.maps["sekisho_owners"])
    except OSError as error:
        _LOG.warning("older_sockets_unattributed", reason=error.strerror)
        return False
    _LOG.info("older_sockets_stamped", sockets=stamped)
    return True
