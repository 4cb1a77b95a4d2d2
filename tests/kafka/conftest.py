"""One broker for the whole session, and topics of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from agent.core.kafka import Connection
from tests.tools import topics
from tests.tools.brokers import Cluster, cluster


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
