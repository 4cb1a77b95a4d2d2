"""Build hook: a wheel with a bundled libbpf is for one architecture and a least glibc; without it, for any Linux."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY: Final = Path("collectors/bpf/lib/libbpf.so.1")
_MACHINES: Final = {62: "x86_64", 183: "aarch64"}
"""``e_machine`` of an ELF header (elf.h) -> as wheels name it."""


def tag(library: bytes) -> str:
    """The wheel's tag for a bundled shared library, from its own header and the glibc symbols it asks for."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{LIBRARY} is no 64-bit little-endian ELF file")
    machine = int.from_bytes(library[18:20], "little")
    if machine not in _MACHINES:
        raise ValueError(
            f"{LIBRARY}: wheels are built for {', '.join(_MACHINES.values())}, not machine {machine}"
        )
    asked = [tuple(map(int, found)) for found in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", library)]
    major, minor = max(asked, default=(2, 17))
    return f"py3-none-manylinux_{major}_{minor}_{_MACHINES[machine]}"


class WheelTag(BuildHookInterface):  # type: ignore[type-arg]
    """Sets the tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        library = Path(self.root) / LIBRARY
        if library.exists():
            build_data["pure_python"] = False
            build_data["tag"] = tag(library.read_bytes())
