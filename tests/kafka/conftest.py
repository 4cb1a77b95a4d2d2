"""What every test with a real Kafka does about the garbage of its client; the brokers are in tests/conftest.py."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import garbage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect it."""
    garbage.expect(items, Path(__file__).parent)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Collect it."""
    garbage.collect()


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """It is gone before the next test, whose warnings count."""
    yield
    gc.collect()
