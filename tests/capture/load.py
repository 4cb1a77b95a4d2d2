"""The load generator, compiled from ``load.c`` where it is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.capture.stage import NotThereError


def built(folder: Path) -> Path:
    """The program. Raises :class:`NotThereError` where there is no C compiler."""
    program = folder / "load"
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise NotThereError("no C compiler is installed (apt-get install gcc libc6-dev)")
        source = Path(__file__).with_name("load.c")
        subprocess.run((compiler, "-O2", "-Wall", "-Werror", "-o", str(program), str(source)), check=True)
    return program
