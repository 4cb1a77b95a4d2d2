"""The exercises that come with sekisho, and how one is played: the real detector and the operator's own policy, a state of
its own, and every word marked as an exercise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Final

import yaml
from pydantic import Field, TypeAdapter

from agent.core.accounts import Accounts
from agent.core.clock import DataClock
from agent.core.decision import Decision
from agent.core.flow import BatchHeader
from agent.deciding import LocalDecide
from agent.detection.detector import Detector
from agent.detection.trials import Scene, Sent, pieces
from agent.policy.citing import SaidField
from agent.policy.model import Category, Policy, Recognition, Store
from agent.policy.ownership import Ownership
from agent.policy.rule_tests import Given
from agent.policy.values import DurationNs, Entry, Id
from agent.store.state import State

HOST: Final = "exercise"
INVENTED: Final = "exercise-store"
"""The store of a policy that has none."""
_ROWS_AT_ONCE: Final = 500


class Repeat(Entry):
    """The lines come again."""

    times: int = Field(ge=1, le=400)
    every: DurationNs


class Scenario(Entry):
    """One exercise."""

    id: Id
    title: SaidField
    story: SaidField
    ask: SaidField
    """What those who take part are asked."""
    given: tuple[Given, ...] = Field(min_length=1)
    repeat: Repeat | None = None
    spread: int = Field(1, ge=1, le=200)
    """Each line goes to so many addresses of its receiver."""

    def lines(self) -> tuple[Given, ...]:
        """What is sent, every repetition and address."""
        times, every = (self.repeat.times, self.repeat.every) if self.repeat else (1, 0)
        found = []
        for n in range(times):
            for line in self.given:
                for address in range(self.spread):
                    changed: dict[str, object] = {"at": line.at + n * every}
                    if self.spread > 1:
                        to = line.to.model_dump() | {"address": f"2001:db8:7e57::{address + 1:x}"}
                        changed["to"] = type(line.to).model_validate(to)
                    found.append(line.model_copy(update=changed))
        return tuple(found)


@cache
def scenarios() -> dict[str, Scenario]:
    """All of them, by id."""
    text = (resources.files("agent") / "rehearsal" / "scenarios.yaml").read_text(encoding="utf-8")
    return {one.id: one for one in TypeAdapter(list[Scenario]).validate_python(yaml.safe_load(text))}


def play(
    scenario: Scenario,
    policy: Policy,
    ownership: Ownership,
    state: State,
    *,
    store: str,
    begins_ns: int,
    run_id: str,
    heard: Callable[[Decision], None],
) -> None:
    """Play it to its end into a state of its own. ``store``: of the policy, or :data:`INVENTED`."""
    lines = scenario.lines()
    if policy.store(store) is None:
        made = Store(id=store, categories=(Category.BUSINESS_CRITICAL,), recognise=Recognition(hosts=(HOST,)))
        policy = policy.model_copy(update={"stores": (*policy.stores, made)})
    scene = Scene.of(lines, [store] * len(lines), policy, ownership, HOST)
    policy = policy.model_copy(update={"overrides": (*policy.overrides, *scene.overrides.values())})
    detector = Detector(policy, ownership, host=HOST, simulated=True, replay=True)
    decide = LocalDecide(
        detector, state, Accounts(), DataClock(begins_ns), HOST, replay=True, committed=heard
    )
    decide.restore()
    for number, part in enumerate(_parts(lines, begins_ns)):
        header = BatchHeader(agent_id=HOST, host=HOST, run_id=run_id, lane=1, sequence=number)
        decide.take([scene.batch(part).under(header)], part[-1].end_ns)
    decide.finish()


def _parts(lines: tuple[Given, ...], begins_ns: int) -> Iterator[list[Sent]]:
    rows = sorted(
        (row for number, line in enumerate(lines) for row in pieces(number, line, begins_ns)),
        key=lambda row: (row.end_ns, row.line),
    )
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[begin : begin + _ROWS_AT_ONCE]
