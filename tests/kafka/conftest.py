"""One real broker for the tests of this folder; each test makes its topics anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tools.brokers import Cluster, cluster


@pytest.fixture(scope="session")
def broker() -> Iterator[Cluster]:
    """A running Apache Kafka."""
    with cluster() as running:
        yield running
