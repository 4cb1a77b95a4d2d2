"""The compiled eBPF programs in the tree are those of the sources beside them, and fit their reader."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import collectors.bpf
from collectors.bpf import layout

FOLDER = Path(collectors.bpf.__file__).parent
BUILT_FROM = (FOLDER / "built_from.txt").read_text().split()


def test_the_objects_were_built_from_these_sources() -> None:
    """Whoever changes a source compiles it: the digest noted at the last build is that of the sources now."""
    sources = b"".join(
        (FOLDER / name).read_bytes() for name in ("sekisho.h", "flow.bpf.c", "iter.bpf.c", "tc.bpf.c")
    )
    assert hashlib.sha256(sources).hexdigest() == BUILT_FROM[0], "make bpf"


def _clang() -> str:
    if not (shutil.which("clang") and shutil.which("llvm-strip") and Path("/usr/include/bpf").exists()):
        return ""
    done = subprocess.run(("clang", "-dumpversion"), capture_output=True, text=True, check=True)
    return done.stdout.split(".")[0]


@pytest.mark.skipif(_clang() != BUILT_FROM[1], reason=f"needs clang {BUILT_FROM[1]}, llvm and libbpf-dev")
def test_building_again_gives_the_same_objects() -> None:
    """The same compiler gives the same octets."""
    done = subprocess.run(
        ("sh", str(FOLDER / "build.sh"), "--check"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_objects_name_no_path_and_their_licence() -> None:
    """Nothing of the machine they were built on is in them, and the kernel finds the licence it asks for."""
    for name in ("flow", "iter", "tc"):
        image = (FOLDER / f"{name}.bpf.o").read_bytes()
        assert b"Dual BSD/GPL\0" in image
        assert not re.search(rb"/(home|root|tmp|usr|work)/", image)


def test_structs_have_no_holes() -> None:
    """Every octet of keys and values is a named field, and numbers lie at multiples of their size."""
    for kind in (layout.KEY, layout.VALUE, layout.TOTALS):
        assert kind.fields is not None
        assert sum(field[0].itemsize for field in kind.fields.values()) == kind.itemsize
        assert kind.itemsize % 8 == 0
        for field in kind.fields.values():
            if field[0].base.kind in "iu":
                # Addresses are arrays of 4 octets in C.
                assert field[1] % (4 if field[0].shape else field[0].itemsize) == 0
