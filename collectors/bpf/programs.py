"""The programs at work: loaded and attached anew, or taken over from the BPF file system with all they have counted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar

import numpy as np

from agent.core.errors import CaptureError
from agent.core.faults import faultpoint
from agent.core.log import Log
from collectors.bpf import libbpf
from collectors.bpf.layout import KEY, LAYOUT, NOTES, NOTES_OCTETS, TOTALS, VALUE
from collectors.bpf.pins import LINK, Pins, detach, remove

_LOG: Final = Log(part="ebpf")

ALWAYS: Final = ("sekisho_egress", "sekisho_ingress", "sekisho_create")
POLITE: Final = ("sekisho_conn4", "sekisho_conn6", "sekisho_send4", "sekisho_send6")
"""Left out where another tool's programs stand on the same hooks: Cilium, for one, may refuse to start beside them."""
INSTEAD: Final = ("sekisho_sockops",)
"""Used only where those are left out, to know who opened a connection: it costs a run at every step of each."""
_KINDS: Final[Mapping[str, int]] = {
    # enum bpf_attach_type (linux/bpf.h)
    "sekisho_conn4": 10,
    "sekisho_conn6": 11,
    "sekisho_send4": 14,
    "sekisho_send6": 15,
}
MAPS: Final = (
    "sekisho_flows_a",
    "sekisho_flows_b",
    "sekisho_active",
    "sekisho_totals",
    "sekisho_owners",
    "sekisho_notes",
)
_SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "sekisho_flows_a": (KEY.itemsize, VALUE.itemsize),
    "sekisho_flows_b": (KEY.itemsize, VALUE.itemsize),
    "sekisho_totals": (4, TOTALS.itemsize),
    "sekisho_notes": (4, NOTES_OCTETS),
}


def image(name: str) -> bytes:
    """A compiled object file of this package: ``flow`` or ``iter``."""
    return (files("collectors.bpf") / f"{name}.bpf.o").read_bytes()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be counted, and how."""

    cgroup: Path
    """Folder of the control group (version 2) whose sockets are watched, with all below it."""
    map_flows: int
    hooks: tuple[str, ...]

    def fingerprint(self) -> bytes:
        """32 octets that tell whether what is pinned is what would be loaded now."""
        stat = self.cgroup.stat()
        said = repr((self.map_flows, sorted(self.hooks), stat.st_dev, stat.st_ino, LAYOUT))
        return hashlib.sha256(image("flow") + said.encode()).digest()


def hooks_for(cgroup: Path, ours: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(hooks to use, hooks left out because another tool's programs are there). ``ours``: how many are our own.

    Raises ``OSError`` where the kernel does not say.
    """
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        taken = [name for name in POLITE if libbpf.attached(folder, _KINDS[name]) > ours[name]]
    finally:
        os.close(folder)
    left_out = POLITE if taken else ()
    return (*ALWAYS, *(INSTEAD if taken else POLITE)), left_out


class Programs:
    """One set of maps with its programs. Close it; what is pinned goes on counting."""

    maps_of_set: ClassVar[tuple[str, ...]] = MAPS

    def __init__(self, maps: Mapping[str, int], folder: Path | None) -> None:
        """``maps``: file descriptors, owned from now on."""
        self.maps = maps
        self.folder = folder
        """Where it is pinned; None: nowhere."""
        self.links: dict[str, int] = {}
        """Program -> file descriptor of its link, owned."""
        for name, expected in _SIZES.items():
            info = libbpf.map_info(maps[name])
            if (info.key_size, info.value_size) != expected:
                raise CaptureError(
                    f"map {name} has keys and values of {info.key_size} and {info.value_size} octets, expected "
                    f"{expected}: the program does not fit its reader; rebuild it with `make bpf`"
                )

    @property
    def instance(self) -> str:
        """Name of this set of maps, drawn when it was made."""
        return bytes(self.notes()["instance"].tobytes()).hex()

    def notes(self) -> np.ndarray[tuple[()], np.dtype[np.void]]:
        """What the reader has noted: one ``layout.NOTES``."""
        out: np.ndarray[tuple[()], np.dtype[np.void]] = np.zeros((), NOTES)
        key = np.zeros(1, np.uint32)
        libbpf.call("bpf_map_lookup_elem", self.maps["sekisho_notes"], key.ctypes.data, out.ctypes.data)
        return out

    def note(self, notes: np.ndarray[tuple[()], np.dtype[np.void]]) -> None:
        """Write the reader's notes, in one step."""
        key = np.zeros(1, np.uint32)
        libbpf.call("bpf_map_update_elem", self.maps["sekisho_notes"], key.ctypes.data, notes.ctypes.data, 0)

    def detach(self) -> None:
        """Take the programs off their hooks; what they counted stays."""
        if self.folder is not None:
            detach(self.folder)
        self._let_go()

    def fallen(self) -> tuple[str, ...]:
        """Programs that somebody else took off their hooks."""
        return tuple(name for name, link in self.links.items() if not libbpf.is_attached(link))

    def _let_go(self) -> None:
        for link in self.links.values():
            os.close(link)
        self.links = {}

    def remove(self) -> None:
        """Take the programs off and forget what they counted."""
        self.detach()
        if self.folder is not None:
            remove(self.folder)

    def close(self) -> None:
        """Let go. Without pins this ends the counting."""
        self._let_go()
        for fd in self.maps.values():
            os.close(fd)
        self.maps = {}

    @classmethod
    def load(cls, wish: Wish, pins: Pins | None) -> Programs:
        """Load, attach and, with ``pins``, pin. Raises ``OSError`` with the kernel's or libbpf's words."""
        instance = uuid.uuid4()
        entries = dict.fromkeys(("sekisho_flows_a", "sekisho_flows_b"), wish.map_flows)
        with libbpf.Object(image("flow"), entries=entries, wanted=wish.hooks.__contains__) as loaded:
            made = cls({name: loaded.map(name) for name in MAPS}, None)
            try:
                notes = made.notes()
                notes["layout"], notes["program"] = LAYOUT, wish.fingerprint()
                notes["instance"] = instance.bytes
                made.note(notes)
                if pins is not None:
                    made._pin_maps(pins.folder / instance.hex)
                made._attach(loaded, wish)
            except BaseException:
                made.remove()
                made.close()
                raise
        return made

    def _pin_maps(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        faultpoint("ebpf.before_pins")
        for name, fd in self.maps.items():
            libbpf.pin(fd, folder / name)

    def _attach(self, loaded: libbpf.Object, wish: Wish) -> None:
        cgroup = os.open(wish.cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Those that count come last, once every socket there is has its owner: a row says whose it is as it begins.
            counting = ("sekisho_egress", "sekisho_ingress")
            for name in sorted(loaded.programs, key=counting.__contains__):
                if name == counting[0]:
                    with contextlib.suppress(OSError):  # whoever asks next is told why
                        back_fill(self.maps["sekisho_owners"])
                with loaded.attach(name, cgroup) as link:
                    self.links[name] = os.dup(link.fd)
                if self.folder is not None:
                    libbpf.pin(self.links[name], self.folder / (LINK + name))
                    faultpoint("ebpf.after_link")
        finally:
            os.close(cgroup)

    @classmethod
    def adopt(cls, folder: Path) -> Self | None:
        """Take over a pinned set; None where it is no whole set of this layout. Raises ``OSError``."""
        maps: dict[str, int] = {}
        try:
            for name in cls.maps_of_set:
                maps[name] = libbpf.pinned(folder / name)
            found = cls(maps, folder)
            if int(found.notes()["layout"]) == LAYOUT:
                # Held too, so that counting goes on if the file system is unmounted meanwhile.
                for path in sorted(folder.glob(LINK + "*")):
                    found.links[path.name.removeprefix(LINK)] = libbpf.pinned(path)
                return found
        except FileNotFoundError:
            pass
        except CaptureError as error:
            _LOG.warning("pins_not_readable", folder=str(folder), reason=str(error))
        for fd in maps.values():
            os.close(fd)
        return None

    def serves(self, wish: Wish) -> bool:
        """Whether it is what would be loaded now, with every program in its place."""
        assert self.folder is not None
        same = self.notes()["program"].tobytes() == wish.fingerprint()
        return same and not self.fallen() and set(wish.hooks) <= self.links.keys()


@contextlib.contextmanager
def at_work(wish: Wish, pins: Pins | None) -> Iterator[tuple[Programs, Sequence[Programs]]]:
    """(the programs that count from now on, older sets that have stopped and must be read out).

    Raises ``OSError`` with the kernel's or libbpf's words.
    """
    with taken_over(
        pins, Programs.adopt, lambda p: p.serves(wish), lambda: Programs.load(wish, pins)
    ) as both:
        yield both


P = TypeVar("P", bound=Programs)


@contextlib.contextmanager
def taken_over(
    pins: Pins | None,
    adopt: Callable[[Path], P | None],
    serves: Callable[[P], bool],
    load: Callable[[], P],
) -> Iterator[tuple[P, Sequence[P]]]:
    """(the pinned set that serves, else a new one; the others, taken off). Closed at the end."""
    current: P | None = None
    older: list[P] = []
    try:
        for folder in pins.sets() if pins is not None else ():
            found = adopt(folder)
            if found is None:
                _LOG.warning("pins_removed", folder=str(folder), reason="no whole set of this version")
                remove(folder)
            elif current is None and serves(found):
                current = found
            else:
                found.detach()
                older.append(found)
        if current is None:
            current = load()
        yield current, older
    finally:
        for programs in (*older, *((current,) if current else ())):
            programs.close()


def back_fill(owners: int) -> int:
    """Stamp the sockets that processes hold by now; how many were stamped. Needs the kernel's BTF and 5.12.

    Raises ``OSError`` where this kernel or these rights do not allow it.
    """
    with libbpf.Object(image("iter"), reuse={"sekisho_owners": owners}) as loaded:
        return loaded.iterate("sekisho_files") // 4
