"""The undisturbed run that each fault is compared with, and the page that ``make fault`` writes.

``TESTS_FAULTS=all`` (``make fault``) runs every kill point, both databases and the long forms; else the short ones run.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.kafka import Connection
from tests.faults.scale import FULL
from tests.tools import garbage, topics
from tests.tools.brokers import Cluster
from tests.tools.plan import Plan
from tests.tools.postgres import Server
from tests.tools.reliability_page import Line, write
from tests.tools.road import NONE, Facts, Road, ended

_LINES: list[Line] = []
LET_GO = ("spool dropped (", "dropped (")
Page = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the garbage of Kafka's client."""
    garbage.expect(items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Its garbage is gone before the next test, whose warnings count."""
    yield
    gc.collect()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Write what was found where all of it was asked for."""
    garbage.collect()
    if FULL and _LINES:
        write(_LINES)


@pytest.fixture
def kafka(kafka: Connection) -> Connection:
    """A broker that is given up soon."""
    return kafka.model_copy(update={"connect_s": 3.0, "request_s": 5.0})


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    """Where the detector keeps its state: the address of a new database, or None for a file."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("postgres_server")
    return server.fresh()


@pytest.fixture(scope="session")
def undisturbed(broker: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What a detector finds where nothing goes wrong."""
    kafka = topics.connection(broker.bootstrap, "undisturbed")
    topics.make(broker.bootstrap, *kafka.topics.model_dump().values())
    plan = Plan.of_now()
    with Road(tmp_path_factory.mktemp("undisturbed"), kafka, plan) as road:
        detector, agent = road.detector(), road.agent()
        road.let(plan.steps)
        road.until_delivered(plan.marks, agent, detector)
        ended(road, agent, detector)
        found = road.facts()
        assert road.told() == {"as:64500": 1, "as:64501": 1}
    assert {f[2] for f in found.findings} == {"as:64500", "as:64501"}
    return found


@pytest.fixture
def page() -> Page:
    """Tell what a scenario came to."""

    def tell(
        scenario: str,
        road: Road,
        *,
        findings: str = "equal",
        loss: str = "nothing",
        sent: int = 0,
        delivered: int = 0,
    ) -> None:
        let_go: dict[str, int] = {}
        beats = road.beats()
        for beat in beats:
            account = beat["account"]
            assert (account["residue"], account["sealed residue"]) == (NONE, NONE), beat
        last = {beat["run_id"]: beat for beat in beats}
        for beat in last.values():
            for name, amounts in beat["account"].items():
                if name.startswith(LET_GO):
                    reason = name.partition("(")[2].rstrip(")")
                    let_go[reason] = let_go.get(reason, 0) + amounts["flows"]
        where = "PostgreSQL" if road.database else "SQLite"
        _LINES.append(
            Line(
                f"{scenario} ({where})",
                sent or road.plan.marks,
                delivered or road.recount.rows,
                let_go,
                findings,
                loss,
            )
        )

    return tell
