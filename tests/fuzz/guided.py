"""Coverage-guided runs of a fuzz target by atheris (``pip install -e .[fuzz]``): arguments are those of libFuzzer."""

from __future__ import annotations

import sys
from collections.abc import Callable


def guided(target: Callable[[bytes], None]) -> None:
    """Run until a target fails or libFuzzer's limits are reached; everything that is loaded is watched."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
