"""Skips that say why, and no skips at all where TESTS_NO_SKIP is set (but for data that others made)."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from agent.core import log
from tests.tools import postgres
from tests.tools.places import DATABASES, ROOT, TESTDATA
from tests.tools.states import Place

if TYPE_CHECKING:
    from agent.core.kafka import Connection
    from tests.tools.brokers import Cluster

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Generator[None]:
    """What a command set up for its logs does not reach the next test."""
    yield
    log.before_first(logging.NOTSET, lambda: None)


NO_SKIP = bool(os.environ.get("TESTS_NO_SKIP"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and say why."""
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and packet sockets"))
        if item.get_closest_marker("testdata") and TESTDATA is None:
            item.add_marker(
                pytest.mark.skip(
                    reason="the captures and databases made by others are not beside this checkout"
                )
            )
        if item.get_closest_marker("geodata") and DATABASES is None:
            item.add_marker(
                pytest.mark.skip(reason="no databases installed: run `make test`, which installs them")
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may skip, a skip fails, but for the data that others made."""
    report = yield
    if (
        NO_SKIP
        and report.skipped
        and not hasattr(report, "wasxfail")
        and not item.get_closest_marker("testdata")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where nothing may skip: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """One real PostgreSQL server for all tests that ask for it; each makes databases of its own in it."""
    with postgres.serving() as server:
        yield server


@pytest.fixture(scope="session")
def broker() -> Iterator[Cluster]:
    """Apache Kafka with one broker, for the whole session."""
    from tests.tools.brokers import cluster

    with cluster() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """What the names of a test's topics begin with."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka(broker: Cluster, prefix: str) -> Connection:
    """Settings of the broker, with topics that exist; their time is the broker's, as `sekisho kafka topics create` sets it."""
    from tests.tools import topics

    made = topics.connection(broker.bootstrap, prefix)
    as_ours = {"message.timestamp.type": "LogAppendTime"}
    topics.make(broker.bootstrap, *made.topics.model_dump().values(), **as_ours)
    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a state may be kept: a file, or a database of a real server. What uses it runs with both."""
    if request.param == "sqlite":
        return Place(tmp_path / "state.db")
    return Place(request.getfixturevalue("postgres_server").fresh())
