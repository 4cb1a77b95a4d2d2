"""What is the same on x86-64 and arm64, so that one wheel serves both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agent
import collectors
from collectors.bpf.programs import image


def test_the_kernel_is_called_by_name_alone() -> None:
    """Numbers of system calls differ between architectures (bpf: 321 and 280): libc and libbpf know them, no code here does."""
    sources = [path for room in (agent, collectors) for path in Path(str(room.__file__)).parent.rglob("*.py")]
    assert len(sources) > 100
    by_number = re.compile(r"\bsyscall\s*\(|[\"']syscall[\"']")
    assert [str(path) for path in sources if by_number.search(path.read_text())] == []


@pytest.mark.parametrize("name", ["flow", "iter"])
def test_the_programs_are_for_the_kernel_s_own_machine(name: str) -> None:
    """64-bit little-endian ELF for EM_BPF (247): what both architectures' kernels load."""
    head = image(name)[:20]
    assert (head[:6], int.from_bytes(head[18:20], "little")) == (b"\x7fELF\x02\x01", 247)
