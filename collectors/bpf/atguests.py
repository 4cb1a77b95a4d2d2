"""What programs on the interfaces of guests count: rows with the machine or pod behind each interface."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from agent.core.clock import SECOND_NS
from agent.core.stages import Context
from collectors.bpf import forwarded, rows
from collectors.bpf.counting import Captured, Counting, How
from collectors.bpf.epochs import Drained
from collectors.bpf.gaps import Diary
from collectors.bpf.hooks import Way
from collectors.bpf.kept import Kept
from collectors.bpf.known import Known
from collectors.bpf.ondevices import OnDevices
from collectors.bpf.reconcile import Counters, Rows
from collectors.flowtable.table import KeyHash
from collectors.host.guests import Guest, Guests
from collectors.host.interfaces import Host, HostWatch, Interface, passed
from collectors.host.pods import Pods

_MOST_TOLD: Final = 1000
_MOST_PATIENCE_NS: Final = 300 * SECOND_NS


class AtGuests(Counting):
    """One run of ``tc``. Interfaces are those of the calling thread's network namespace."""

    def __init__(
        self,
        stage: Kept,
        how: How,
        context: Context,
        programs: OnDevices,
        way: Way,
        watch: HostWatch,
        diary: Diary,
        choose: Callable[[Host], Iterator[tuple[Interface, str]]],
    ) -> None:
        """``choose``: (interface that may be watched, why it is not all the same; empty if it is)."""
        super().__init__(stage, how, context, "tc", diary)
        self._programs, self._way, self._watch, self._choose = programs, way, watch, choose
        self._names: dict[int, str] = {}
        self._guests: dict[int, Guest] = {}
        self._who, self._pods = Guests(), Pods()
        self._watched: dict[int, Interface] = {}
        self._asked_ns, self._patience_ns = 0, 0
        self._told: set[str] = set()
        self._hasher, self._known = KeyHash(), Known()
        self._is_first_look = True

    def look(self, now_ns: int) -> None:
        """See :class:`Counting`: take up interfaces that appeared, let go of those that are gone."""
        if self._is_first_look or self._watch.changed():
            self._look()
            self._is_first_look = False

    def _look(self) -> None:
        host = self._watch.read()
        wanted: dict[int, Interface] = {}
        for interface, why_not in self._choose(host):
            if why_not:
                self._tell("interface_not_watched", why_not, interface=interface.name, reason=why_not)
            else:
                wanted[interface.index] = interface
        for index in self._programs.watched - wanted.keys():
            self._programs.unwatch(index)
            reason = "the scope does not name it" if index in host.interfaces else "it is gone"
            self._log.info("interface_released", interface=self._names.get(index, str(index)), reason=reason)
        self._watched = wanted
        self._names |= {index: interface.name for index, interface in wanted.items()}
        fresh = wanted.keys() - self._programs.watched
        for index in fresh:
            self._take_up(wanted[index])
        self._ask_who(now=bool(fresh) or self._is_first_look)

    def _take_up(self, interface: Interface) -> None:
        try:
            self._programs.watch(interface, self._way)
        except OSError as error:
            self._programs.unwatch(interface.index)
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
            if error.errno != errno.ENODEV:
                self._tell(
                    "interface_not_watched",
                    interface.name,
                    interface=interface.name,
                    reason=f"{error}; another tool's filter may be in the place of ours (tc filter show dev …)",
                )
            return
        missed = passed(interface.index) if not self._is_first_look else None
        frames = missed.packets_in + missed.packets_out if missed else 0
        if missed and frames:
            # At most so many: some may have been counted already.
            self._accounts.lose_frames("before_watched", frames, missed.octets_in + missed.octets_out)
        self._log.info("interface_watched", interface=interface.name, frames_before=frames)

    def _ask_who(self, *, now: bool = False) -> None:
        """Ask who is behind interfaces of which that is not known; less and less often, for it costs a look at every process."""
        unknown = [i for i in self._watched.values() if not self._guests.get(i.index, Guest()).known]
        if now:
            self._patience_ns = 0
        if unknown and (now or self._clock.monotonic_ns() - self._asked_ns >= self._patience_ns):
            self._guests |= self._who.of(unknown)
            self._asked_ns = self._clock.monotonic_ns()
            self._patience_ns = min(2 * self._patience_ns + SECOND_NS, _MOST_PATIENCE_NS)

    def _tell(self, event: str, fact: str, **detail: str) -> None:
        """Warn once of each fact: many interfaces may share one."""
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        if f"{event} {fact}" not in self._told:
            self._told.add(f"{event} {fact}")
            self._log.warning(event, **detail)

    def _look_for_others(self) -> None:
        for index, interface in self._watched.items():
            if names := self._programs.before(index):
                self._tell(
                    "programs_before_ours",
                    f"{index} {names}",
                    interface=interface.name,
                    programs=", ".join(names),
                    cost="what they drop or redirect is not counted; start the agent after that tool",
                )

    def capture(self, drained: Drained, times: rows.Times, *, forced: bool) -> Captured:
        """See :class:`Counting`."""
        self._look_for_others()
        self._ask_who()
        guests = {
            i: replace(g, place=self._pods.named(g.place, times.boot_ns)) for i, g in self._guests.items()
        }
        flows = forwarded.flows(drained.keys, drained.values, self._hasher)
        batch = rows.batch(
            flows,
            self._known.take(flows),
            times=times,
            vantage="tc",
            interface=forwarded.named(flows, self._names),
            owners=forwarded.owners(flows, guests),
            forced=forced,
        ).with_columns(vantage=forwarded.named(flows, self._names, "tc:"))
        self._forget()
        passed_by = Rows(int(flows.sums["octets_out"].sum()), int(flows.sums["octets_in"].sum()))
        return Captured(batch, np.zeros(len(batch), bool), passed_by)

    def counters(self) -> Counters:
        """See :class:`Counting`: of the interfaces that are watched; what a guest sends comes in there."""
        links = {}
        for interface in self._watch.read().interfaces.values():
            if interface.index in self._watched:
                t, header = interface.traffic, interface.link_header
                links[interface.index] = (
                    t.packets_out,
                    t.packets_in,
                    max(t.octets_out - header * t.packets_out, 0),
                    max(t.octets_in - header * t.packets_in, 0),
                )
        return Counters(links, 0, 0, 0)

    def _forget(self) -> None:
        """Interfaces that are gone, once their last rows are out."""
        for index in self._names.keys() - self._watched.keys():
            del self._names[index]
            self._guests.pop(index, None)
