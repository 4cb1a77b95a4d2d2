"""What every test with a real Kafka does about the garbage of its client; the brokers are in tests/conftest.py."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves sockets of connections that failed to the garbage collector, which warns of each."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """What of it the last test still held goes without a word."""
    kept, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            gc.collect()
    sys.unraisablehook = kept


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Its garbage is gone before the next test, whose warnings count."""
    yield
    gc.collect()
