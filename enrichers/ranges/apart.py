"""Building in a process of its own, for a process that lasts: what building takes for a while is some hundred MB, of which
the allocators of Python and C would keep a part for good."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LONGEST_S: Final = 120.0


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call a module's function in a new process and wait until it has ended, however it ended.

    Its effect must lie outside the process, and the caller must do without: there may be no room for it, or no right.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [sys.executable, "-m", __name__],
            input=pickle.dumps((function.__module__, function.__name__, arguments)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LONGEST_S,
            check=False,
        )


def main() -> None:
    """The other end of :func:`apart`."""
    module, function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    getattr(importlib.import_module(module), function)(*arguments)


if __name__ == "__main__":
    main()
