"""What kafka-python leaves to the garbage collector: sockets of connections that failed, of which it warns one by one."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest


def expect(items: Iterable[pytest.Item], folder: Path) -> None:
    """No test of a folder fails for it."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


def collect() -> None:
    """What of it the last test still held goes without a word."""
    kept, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            gc.collect()
    sys.unraisablehook = kept
