"""libbpf.so.1 by ctypes: the few calls that are needed, typed. No compiler, no headers and no C extension at run time.

The library is looked for in this order: the file that the settings name (:func:`use`), the one bundled in ``lib/`` beside
this file (``make libbpf``), the system's. Every failure is an ``OSError`` with what libbpf said; whoever calls says what it
means for people.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

_LIBRARY: Final = "libbpf.so.1"
BUNDLED: Final = Path(__file__).parent / "lib" / _LIBRARY
"""Where a wheel that was built with ``make libbpf wheel`` has it."""
_P = ctypes.c_void_p
_SIGNATURES: Final[Mapping[str, tuple[Any, ...]]] = {
    # name: result, arguments
    "bpf_object__open_mem": (_P, _P, ctypes.c_size_t, _P),
    "bpf_object__load": (ctypes.c_int, _P),
    "bpf_object__close": (None, _P),
    "bpf_object__next_program": (_P, _P, _P),
    "bpf_object__find_map_by_name": (_P, _P, ctypes.c_char_p),
    "bpf_program__name": (ctypes.c_char_p, _P),
    "bpf_program__set_autoload": (ctypes.c_int, _P, ctypes.c_bool),
    "bpf_program__fd": (ctypes.c_int, _P),
    "bpf_program__attach_cgroup": (_P, _P, ctypes.c_int),
    "bpf_program__attach_iter": (_P, _P, _P),
    "bpf_link__fd": (ctypes.c_int, _P),
    "bpf_link__destroy": (ctypes.c_int, _P),
    "bpf_iter_create": (ctypes.c_int, ctypes.c_int),
    "bpf_map__fd": (ctypes.c_int, _P),
    "bpf_map__reuse_fd": (ctypes.c_int, _P, ctypes.c_int),
    "bpf_map__set_max_entries": (ctypes.c_int, _P, ctypes.c_uint32),
    "bpf_map__set_initial_value": (ctypes.c_int, _P, _P, ctypes.c_size_t),
    "bpf_map_lookup_elem": (ctypes.c_int, ctypes.c_int, _P, _P),
    "bpf_map_update_elem": (ctypes.c_int, ctypes.c_int, _P, _P, ctypes.c_uint64),
    "bpf_map_lookup_batch": (ctypes.c_int, ctypes.c_int, _P, _P, _P, _P, _P, _P),
    "bpf_map_delete_batch": (ctypes.c_int, ctypes.c_int, _P, _P, _P),
    "bpf_obj_pin": (ctypes.c_int, ctypes.c_int, ctypes.c_char_p),
    "bpf_obj_get": (ctypes.c_int, ctypes.c_char_p),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, ctypes.c_int, _P, _P),
    "bpf_link_create": (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, _P),
    "bpf_prog_get_fd_by_id": (ctypes.c_int, ctypes.c_uint32),
    "bpf_tc_hook_create": (ctypes.c_int, _P),
    "bpf_tc_hook_destroy": (ctypes.c_int, _P),
    "bpf_tc_attach": (ctypes.c_int, _P, _P),
    "bpf_tc_detach": (ctypes.c_int, _P, _P),
    "bpf_tc_query": (ctypes.c_int, _P, _P),
    "bpf_prog_query": (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint32, _P, _P, _P),
    "libbpf_num_possible_cpus": (ctypes.c_int,),
    "libbpf_set_print": (_P, _P),
}
_PRINT: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, _P)
BATCH_TOKEN_OCTETS: Final = 64


class MapInfo(ctypes.Structure):
    """The first fields of ``struct bpf_map_info`` (linux/bpf.h); octets and counts."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


class LinkInfo(ctypes.Structure):
    """The first fields of ``struct bpf_link_info`` (linux/bpf.h), of a link to a control group."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("program", ctypes.c_uint32),
        ("cgroup", ctypes.c_uint64),
        ("attach_type", ctypes.c_uint32),
    ]


class _Library:
    def __init__(self, file: str) -> None:
        self.file = file
        self.loaded = ctypes.CDLL(file, use_errno=True)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(self.loaded, name)
            function.restype, function.argtypes = result, arguments
        self.said: deque[str] = deque(maxlen=8)
        self._libc = ctypes.CDLL(None)
        self._libc.vsnprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, _P)
        # The library keeps the address of this function: it must live as long as the library.
        self._listener = _PRINT(self._hear)
        self.loaded.libbpf_set_print(ctypes.cast(self._listener, _P))

    def _hear(self, level: int, text: bytes, arguments: int) -> int:
        room = ctypes.create_string_buffer(4096)
        self._libc.vsnprintf(room, len(room), text, arguments)
        if level == 0:  # LIBBPF_WARN
            self.said.append(room.value.decode(errors="replace").strip().removeprefix("libbpf: "))
        return 0

    def fail(self, what: str, code: int) -> OSError:
        said = next((line for line in reversed(self.said) if line), "")
        return OSError(
            code, f"{what}: {os.strerror(code)}" + (f" (libbpf: {said.splitlines()[0]})" if said else "")
        )


_named: Path | None = None


def use(file: Path | None) -> None:
    """Take the library from that file alone; None: from where it is found. Only before anything is loaded with it."""
    global _named
    if file != _named:
        _named = file
        _library.cache_clear()


def files() -> tuple[str, ...]:
    """Where the library is looked for, in this order."""
    if _named is not None:
        return (str(_named),)
    return (*((str(BUNDLED),) if BUNDLED.exists() else ()), _LIBRARY)


@functools.cache
def _library() -> _Library:
    """The first that can be used. Raises ``OSError`` with what was wrong with each."""
    faults = []
    for file in files():
        try:
            return _Library(file)
        except OSError as error:
            faults.append(str(error))
        except AttributeError as error:
            faults.append(f"{file} is too old: {error}")
    raise OSError("; ".join(faults))


def missing() -> str:
    """Why libbpf cannot be used here; empty if it can."""
    try:
        _library()
    except OSError as error:
        return str(error)
    return ""


def where() -> str:
    """The file that is used, as it was asked for. Raises ``OSError`` where :func:`missing` says something."""
    return _library().file


def call(name: str, *arguments: Any) -> int:
    """A function that gives a negative error number. Raises ``OSError``."""
    result: int = getattr(_library().loaded, name)(*arguments)
    if result < 0:
        raise _library().fail(name, -result)
    return result


def _pointer(name: str, *arguments: Any) -> int:
    """A function that gives a pointer, or null and ``errno``. Raises ``OSError``."""
    result: int | None = getattr(_library().loaded, name)(*arguments)
    if not result:
        raise _library().fail(name, ctypes.get_errno() or errno.EINVAL)
    return result


class Object:
    """One object file in the kernel. Close it: programs that no link holds leave the kernel with it."""

    def __init__(
        self,
        image: bytes,
        *,
        entries: Mapping[str, int] | None = None,
        reuse: Mapping[str, int] | None = None,
        constants: bytes = b"",
        wanted: Callable[[str], bool] = lambda _program: True,
    ) -> None:
        """Load the programs of an object file. ``entries``: sizes of maps; ``reuse``: file descriptors of maps that exist;
        ``constants``: what its read-only data holds instead; ``wanted``: which programs. Raises ``OSError`` with the verifier's or loader's words.
        """
        self._library = _library()
        self._library.said.clear()
        self._image = ctypes.create_string_buffer(image, len(image))
        self._object = _pointer("bpf_object__open_mem", self._image, len(image), None)
        try:
            for name, fd in (reuse or {}).items():
                call("bpf_map__reuse_fd", self._map(name), fd)
            for name, count in (entries or {}).items():
                call("bpf_map__set_max_entries", self._map(name), count)
            if constants:
                call("bpf_map__set_initial_value", self._map(".rodata"), constants, len(constants))
            self._programs = dict(self._walk())
            for name, program in self._programs.items():
                call("bpf_program__set_autoload", program, wanted(name))
            call("bpf_object__load", self._object)
        except OSError:
            self.close()
            raise
        self.programs = tuple(name for name in self._programs if wanted(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _walk(self) -> Iterator[tuple[str, int]]:
        program: int | None = None
        while program := self._library.loaded.bpf_object__next_program(self._object, program):
            yield self._library.loaded.bpf_program__name(program).decode(), program

    def _map(self, name: str) -> int:
        return _pointer("bpf_object__find_map_by_name", self._object, name.encode())

    def map(self, name: str) -> int:
        """File descriptor of a map, a copy of its own: close it."""
        return os.dup(call("bpf_map__fd", self._map(name)))

    def program(self, name: str) -> int:
        """File descriptor of a program, a copy of its own: close it."""
        return os.dup(call("bpf_program__fd", self._programs[name]))

    def attach(self, program: str, cgroup: int) -> Link:
        """Attach a program to a control group (beside whatever is there). Raises ``OSError``."""
        return Link(_pointer("bpf_program__attach_cgroup", self._programs[program], cgroup))

    def iterate(self, program: str) -> int:
        """Run an iterator to its end; octets that it wrote. Raises ``OSError``."""
        link = Link(_pointer("bpf_program__attach_iter", self._programs[program], None))
        with link:
            reading = call("bpf_iter_create", link.fd)
            try:
                octets = 0
                while part := os.read(reading, 1 << 16):
                    octets += len(part)
                return octets
            finally:
                os.close(reading)

    def close(self) -> None:
        """Let go of it."""
        if self._object:
            self._library.loaded.bpf_object__close(self._object)
            self._object = 0


class Link:
    """A program where it is attached. Ends with its last holder: this one, or a pin."""

    def __init__(self, pointer: int) -> None:
        self._link = pointer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Its file descriptor."""
        return call("bpf_link__fd", self._link)

    def close(self) -> None:
        """Let go of it."""
        if self._link:
            _library().loaded.bpf_link__destroy(self._link)
            self._link = 0


def pin(fd: int, path: Path) -> None:
    """Keep a map or link in the BPF file system, beyond this process. Raises ``OSError``."""
    call("bpf_obj_pin", fd, os.fsencode(path))


def pinned(path: Path) -> int:
    """File descriptor of what is pinned there: close it. Raises ``OSError``."""
    return call("bpf_obj_get", os.fsencode(path))


def map_info(fd: int) -> MapInfo:
    """What the kernel says of a map."""
    info, size = MapInfo(), ctypes.c_uint32(ctypes.sizeof(MapInfo))
    call("bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size))
    return info


def is_attached(link: int) -> bool:
    """Whether a link to a control group still holds its program there: anyone with the right to may take it off, and
    it goes with its group.
    """
    info, size = LinkInfo(), ctypes.c_uint32(ctypes.sizeof(LinkInfo))
    call("bpf_obj_get_info_by_fd", link, ctypes.byref(info), ctypes.byref(size))
    return bool(info.cgroup)


def attached(cgroup: int, kind: int) -> int:
    """How many programs of an attach type stand on a control group itself. Raises ``OSError``."""
    count = ctypes.c_uint32(0)
    try:
        call("bpf_prog_query", cgroup, kind, 0, None, None, ctypes.byref(count))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return count.value


def cpus() -> int:
    """CPUs that the kernel may ever have: how many values a per-CPU map gives."""
    return call("libbpf_num_possible_cpus")
