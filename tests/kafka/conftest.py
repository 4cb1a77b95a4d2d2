"""One broker for the whole session, and topics of its own for each test."""

from __future__ import annotations

import gc
import sys
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.kafka import Connection
from tests.tools import topics
from tests.tools.brokers import Cluster, cluster


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


@pytest.fixture(scope="session")
def broker() -> Iterator[Cluster]:
    """Apache Kafka with one broker."""
    with cluster() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """What the names of a test's topics begin with."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka(broker: Cluster, prefix: str) -> Connection:
    """Settings of the broker, with topics that exist."""
    made = topics.connection(broker.bootstrap, prefix)
    topics.make(broker.bootstrap, *made.topics.model_dump().values())
    return made
