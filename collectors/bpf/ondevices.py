"""The programs of ``tc.bpf.c`` at work: one set of maps, and a pair of hooks on every interface that is watched.

    <folder>/<instance>/<set>/{maps, prog_<name>, link_<side>_<index>, filter_<side>_<index>/, qdisc_<index>/}

A filter under clsact has no link to pin: an empty folder tells that it is ours, and another that the qdisc is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self

from agent.core.faults import faultpoint
from collectors.bpf import hooks, libbpf
from collectors.bpf.hooks import SIDES, Way
from collectors.bpf.layout import LAYOUT
from collectors.bpf.pins import LINK, Pins, remove
from collectors.bpf.programs import Programs, image
from collectors.host.interfaces import Interface

_PROGRAM: Final = "prog_"
_FILTER: Final = "filter_"
_QDISC: Final = "qdisc_"
NAMES: Final = ("sekisho_tc_out", "sekisho_tc_in", "sekisho_l3_out", "sekisho_l3_in")
_ETHERNET: Final = 1  # ARPHRD_ETHER (linux/if_arp.h)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be counted, and how."""

    map_flows: int
    count_own: bool
    """Also what sockets of this kernel send."""
    way: Way
    scope: str
    """What was allowed: another scope is another set, and the old one's programs come off at once."""

    def fingerprint(self) -> bytes:
        """32 octets that tell whether what is pinned is what would be loaded now."""
        said = repr((self.map_flows, self.count_own, self.way.value, self.scope, LAYOUT))
        return hashlib.sha256(image("tc") + said.encode()).digest()


@dataclass(slots=True)
class _Hooked:
    """What stands on one interface."""

    links: dict[str, int] = field(default_factory=dict)
    """Side -> tcx link."""
    filters: set[str] = field(default_factory=set)
    made_qdisc: bool = False


class OnDevices(Programs):
    """One set of maps with the programs, on any number of interfaces. Close it; what is pinned goes on counting."""

    maps_of_set: ClassVar[tuple[str, ...]] = (
        "sekisho_flows_a",
        "sekisho_flows_b",
        "sekisho_active",
        "sekisho_totals",
        "sekisho_notes",
    )

    def __init__(self, maps: Mapping[str, int], folder: Path | None) -> None:
        super().__init__(maps, folder)
        self._programs: dict[str, int] = {}
        self._hooked: dict[int, _Hooked] = {}

    @property
    def watched(self) -> frozenset[int]:
        """Indexes of the interfaces on both of whose sides a program of this set stands."""
        return frozenset(
            index for index, one in self._hooked.items() if len(one.links) + len(one.filters) == len(SIDES)
        )

    @classmethod
    def make(cls, wish: Wish, pins: Pins | None) -> Self:
        """Load and, with ``pins``, pin; on no interface yet. Raises ``OSError`` with the kernel's or libbpf's words."""
        instance = uuid.uuid4()
        entries = dict.fromkeys(("sekisho_flows_a", "sekisho_flows_b"), wish.map_flows)
        constants = struct.pack("=I", wish.count_own)
        with libbpf.Object(image("tc"), entries=entries, constants=constants) as loaded:
            made = cls({name: loaded.map(name) for name in cls.maps_of_set}, None)
            try:
                made._programs = {name: loaded.program(name) for name in NAMES}
                notes = made.notes()
                notes["layout"], notes["program"] = LAYOUT, wish.fingerprint()
                notes["instance"] = instance.bytes
                made.note(notes)
                if pins is not None:
                    made._pin_maps(pins.folder / instance.hex)
                    for name, fd in made._programs.items():
                        libbpf.pin(fd, pins.folder / instance.hex / (_PROGRAM + name))
            except BaseException:
                made.remove()
                made.close()
                raise
        return made

    @classmethod
    def adopt(cls, folder: Path) -> Self | None:
        """Take over a pinned set with its hooks; None where it is no whole set of this layout. Raises ``OSError``."""
        found = super().adopt(folder)
        if found is None:
            return None
        try:
            for name in NAMES:
                found._programs[name] = libbpf.pinned(folder / (_PROGRAM + name))
        except FileNotFoundError:
            found.close()
            return None
        found._take_over(folder)
        return found

    def _take_over(self, folder: Path) -> None:
        for path in folder.glob(f"{LINK}*"):
            link = libbpf.pinned(path)
            index, side = hooks.place_of_tcx(link)
            if index:
                self._at(index).links[side] = link
            else:
                os.close(link)
                path.unlink()
        ours = {hooks.program_id(fd) for fd in self._programs.values()}
        for path in folder.glob(f"{_FILTER}*"):
            _, side, index_text = path.name.split("_")
            if hooks.id_in_clsact(int(index_text), side) in ours:
                self._at(int(index_text)).filters.add(side)
            else:
                path.rmdir()
        for path in folder.glob(f"{_QDISC}*"):
            at = self._hooked.get(int(path.name.removeprefix(_QDISC)))
            if at is not None and at.filters:
                at.made_qdisc = True
            else:
                path.rmdir()  # its interface is gone, or in another namespace than this one

    def fits(self, wish: Wish) -> bool:
        """Whether it is what would be loaded now."""
        return self.notes()["program"].tobytes() == wish.fingerprint()

    def watch(self, interface: Interface, way: Way) -> None:
        """Put the programs on an interface. Raises ``OSError``: it may be gone already, or the kernel refuses."""
        layer = "tc" if interface.hardware == _ETHERNET else "l3"
        at = self._at(interface.index)
        for side, role in zip(SIDES, ("out", "in"), strict=True):
            if side in at.links or side in at.filters:
                continue
            program = self._programs[f"sekisho_{layer}_{role}"]
            if way is Way.TCX:
                at.links[side] = hooks.put_tcx(program, interface.index, side)
                if self.folder is not None:
                    libbpf.pin(at.links[side], self.folder / f"{LINK}{side}_{interface.index}")
                    faultpoint("ebpf.after_link")
                continue
            # Noted first: a filter outlives whoever made it, and must be found again.
            self._mark(f"{_FILTER}{side}_{interface.index}")
            at.made_qdisc |= hooks.put_clsact(program, interface.index, side)
            at.filters.add(side)
            if at.made_qdisc:
                self._mark(f"{_QDISC}{interface.index}")

    def unwatch(self, index: int) -> None:
        """Take the programs off an interface, be it there still or not."""
        at = self._hooked.pop(index, None)
        if at is None:
            return
        for side, link in at.links.items():
            if self.folder is not None:
                (self.folder / f"{LINK}{side}_{index}").unlink(missing_ok=True)
            os.close(link)
        for side in at.filters:
            hooks.take_clsact(index, side)
            self._unmark(f"{_FILTER}{side}_{index}")
        if at.made_qdisc:
            hooks.remove_clsact(index)
            self._unmark(f"{_QDISC}{index}")

    def before(self, index: int) -> Sequence[str]:
        """Names of programs that run before ours on an interface, and so may keep packets from it."""
        ours = {hooks.program_id(fd) for fd in self._programs.values()}
        names: list[str] = []
        for side in self._at(index).links:
            try:
                standing = hooks.order(index, side)
            except OSError:
                continue  # the interface is gone
            at = next((n for n, one in enumerate(standing) if one in ours), len(standing))
            names += [hooks.name_of(one) for one in standing[:at]]
        return names

    def fallen(self) -> tuple[str, ...]:
        """Interfaces, and sides of them, from which somebody else took a program; not those that are gone."""
        ours = {hooks.program_id(fd) for fd in self._programs.values()}
        return tuple(
            f"{side} of {name}"
            for index, at in self._hooked.items()
            for side in (*at.links, *at.filters)
            if not self._stands(at, index, side, ours) and (name := hooks.name_of_device(index))
        )

    def _stands(self, at: _Hooked, index: int, side: str, ours: Set[int]) -> bool:
        if side in at.links:
            return hooks.place_of_tcx(at.links[side])[0] != 0
        return hooks.id_in_clsact(index, side) in ours

    def detach(self) -> None:
        """Take the programs off every interface; what they counted stays."""
        for index in tuple(self._hooked):
            self.unwatch(index)
        super().detach()

    def close(self) -> None:
        """Let go. Without pins this ends the counting."""
        if self.folder is None:
            self.detach()
        for at in self._hooked.values():
            for link in at.links.values():
                os.close(link)
        for fd in self._programs.values():
            os.close(fd)
        self._hooked, self._programs = {}, {}
        super().close()

    def remove(self) -> None:
        """Take the programs off and forget what they counted."""
        self.detach()
        if self.folder is not None:
            remove(self.folder)

    def _at(self, index: int) -> _Hooked:
        return self._hooked.setdefault(index, _Hooked())

    def _mark(self, name: str) -> None:
        if self.folder is not None:
            with contextlib.suppress(FileExistsError):
                (self.folder / name).mkdir()

    def _unmark(self, name: str) -> None:
        if self.folder is not None:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).rmdir()
