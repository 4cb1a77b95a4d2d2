"""What every live collector promises, scenario by scenario, against nft in the peer and the senders' own counts.

The short form of ``make bench-capture``; the scenarios themselves stand in ``tests/capture/scenarios``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tests.capture.scenarios  # noqa: F401  declares them
from tests.capture.agent import Agent
from tests.capture.stage import SCENARIOS, Scenario, Tier, run
from tests.capture.tiers import here, hindrance

pytestmark = pytest.mark.root

MAY_BE_ABSENT = {
    "gre_inside", "io_uring", "sctp", "wireguard_inside",
}  # fmt: skip
"""What not every kernel or machine has. It is reported with the reason, for a skip would say that it does not matter."""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[Agent, Path]]]:
    """The process of the collector under test: one for all tests, a new one once a test has failed in it."""
    folder = tmp_path_factory.mktemp("capture")
    made: list[Agent] = []

    def one() -> tuple[Agent, Path]:
        if made and made[-1].broken:
            made.pop().close()
        if not made:
            made.append(Agent(folder))
        return made[-1], folder

    yield one
    for agent in made:
        agent.close()


@pytest.mark.parametrize("what", [pytest.param(s, id=s.name) for s in SCENARIOS.values()])
@pytest.mark.parametrize("tier", [pytest.param(t, id=t.name) for t in here()])
def test_scenario(
    tier: Tier,
    what: Scenario,
    agents: Callable[[], tuple[Agent, Path]],
    record_property: Callable[[str, object], None],
) -> None:
    """A collector counts what was sent to the octet, and names the right process or none."""
    if why := hindrance(tier.name):
        pytest.skip(f"{tier.name} cannot run here: {why}")
    agent, folder = agents()
    outcome = run(what, tier, agent, folder)
    if outcome.absent:
        record_property("not there", outcome.absent)
        print(f"not there: {what.name}: {outcome.absent}")
        assert what.name in MAY_BE_ABSENT
        return
    for family, verdict in outcome.verdicts.items():
        assert verdict.true.packets_out > 0
        # Two truths: what left holds at least what the system calls took; the rest was sent again.
        assert verdict.true.content_octets_out >= outcome.sent[family] > 0
    assert tier.kept(outcome) == ""
