"""How often the kernel's counts are read, where nobody says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent import config
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, DataClock
from agent.core.flow import FlowBatch
from agent.core.stages import Context, Following
from agent.policy.model import Category, Policy, Recognition, Store
from agent.runtime import Runtime
from collectors.bpf.counting import Counting, How
from collectors.bpf.gaps import Diary
from collectors.ebpf import Ebpf, Settings

KAFKA = object()


def read_every_s(
    recognise: dict[str, Any] | None, *, kafka: object = KAFKA, interval: int | None = None
) -> float:
    """Seconds between two readings on the host db-01, given how the only store is recognised."""
    stores = () if recognise is None else (_store(recognise),)
    context = Context(
        accounts=Accounts(), state_dir=Path("state"), host="db-01", policy=Policy(stores=stores), kafka=kafka
    )
    return Settings(interval=interval).interval_ns(context) / SECOND_NS


def _store(recognise: dict[str, Any]) -> Store:
    known = Recognition.model_validate(recognise)
    return Store(id="patients", categories=(Category.PERSONAL_HEALTH,), recognise=known)


@pytest.mark.parametrize(
    "recognise", [{"hosts": ["db-01"]}, {"hosts": ["this"]}, {"addresses": ["192.0.2.1"]}, {"pods": ["a/b"]}, {"ports": [5432]}]
)  # fmt: skip
def test_a_host_that_may_hold_a_store_is_read_each_second(recognise: dict[str, Any]) -> None:
    """What passes a store's threshold is to be told within seconds, wherever the store may be here."""
    assert read_every_s(recognise) == 1


@pytest.mark.parametrize("recognise", [None, {"hosts": ["db-02"]}])
def test_other_hosts_are_read_every_ten_seconds(recognise: dict[str, Any] | None) -> None:
    """Small messages cost their receiver as much as large ones."""
    assert read_every_s(recognise) == 10


def test_a_host_that_decides_for_itself_is_read_every_ten_seconds() -> None:
    """Without Kafka nothing waits for a fleet's detector."""
    assert read_every_s({"hosts": ["db-01"]}, kafka=None) == 10


def test_an_interval_that_is_set_is_kept() -> None:
    """Whatever the host holds."""
    assert read_every_s({"hosts": ["db-01"]}, interval=20) == 20


def test_a_store_that_comes_by_a_reload_is_read_each_second_at_once() -> None:
    """And every ten seconds again when it goes; an interval that is set stays."""
    context = Context(
        accounts=Accounts(), state_dir=Path("state"), host="db-01", policy=Policy(), kafka=KAFKA
    )
    ours = Policy(stores=(_store({"hosts": ["db-01"]}),))
    found = {}
    for interval in (None, 20):
        one = Ebpf(Settings(interval=interval), context)
        assert isinstance(one, Following)
        seen = [one.interval_ns / SECOND_NS]
        for policy in (ours, Policy()):
            one.follow(policy)
            seen.append(one.interval_ns / SECOND_NS)
        found[interval] = seen
    assert found == {None: [10, 1, 10], 20: [20, 20, 20]}


class _Run:
    """Time that passes only while the loop waits, and what happens at some of it."""

    def __init__(self, clock: DataClock, until_s: int, at: dict[int, Callable[[], None]]) -> None:
        self.clock, self.until_ns, self.at = clock, until_s * SECOND_NS, at

    def is_set(self) -> bool:
        return self.clock.now_ns() >= self.until_ns

    def wait(self, seconds: float) -> None:
        self.clock.set(self.clock.now_ns() + max(int(seconds * SECOND_NS), 1))
        for at_s in [s for s in self.at if self.clock.now_ns() >= s * SECOND_NS]:
            self.at.pop(at_s)()


class _Nothing:
    """Programs in place, and an empty map."""

    pending = None

    def fill(self) -> float:
        return 0.0

    def fallen(self) -> tuple[str, ...]:
        return ()


def test_the_readings_of_a_run_follow_the_policy() -> None:
    """Every ten seconds, then each second from the second in which the store came."""
    clock = DataClock(1)
    context = Context(
        accounts=Accounts(), state_dir=Path("state"), host="db-01", policy=Policy(), kafka=KAFKA, clock=clock
    )
    stage, read_s = Ebpf(Settings(), context), []

    class Read(Counting):
        def look(self, now_ns: int) -> None:
            pass

        def _account(self) -> None:
            pass

        def _settle_if_durable(self, epochs: Any) -> None:
            pass

        def _exchange(self, epochs: Any) -> Iterator[FlowBatch]:
            read_s.append(round(clock.now_ns() / SECOND_NS))
            yield FlowBatch.empty()

    Read.__abstractmethods__ = frozenset()
    counting = Read(stage, How(), context, "", cast(Diary, None))  # type: ignore[abstract]
    ours = Policy(stores=(_store({"hosts": ["db-01"]}),))
    run = _Run(clock, 38, {33: lambda: stage.follow(ours)})
    list(counting._watch_traffic(cast(Any, _Nothing()), cast(Any, _Nothing()), cast(Any, run)))
    assert read_s[:3] == [10, 20, 30]
    assert read_s[3:] in ([34, 35, 36, 37, 38], [34, 35, 36, 37])


def test_a_reload_tells_collectors_of_the_new_policy(tmp_path: Path) -> None:
    """Those that watch by it; no restart is needed."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\ntenant: example\n")
    (tmp_path / "sekisho.yaml").write_text(
        f"state_dir: {tmp_path}/state\nenrichers: {{}}\narchive: false\npolicy: [{policy}]\n"
    )
    loaded = config.load(tmp_path / "sekisho.yaml", environ={})
    with Runtime(loaded, build_collectors=lambda context: {"ebpf": Ebpf(Settings(), context)}) as run:
        told: list[list[str]] = []
        one = run.collectors["ebpf"]
        assert isinstance(one, Ebpf)
        one.follow = lambda policy: told.append([store.id for store in policy.stores])  # type: ignore[method-assign]
        policy.write_text(
            "version: 1\ntenant: example\nstores: [{id: patients, categories: [personal_health], "
            "recognise: {hosts: [db-01]}}]\n"
        )
        assert run.reload() and told == [["patients"]]
