"""How often the kernel's counts are read, where nobody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.stages import Context
from agent.policy.model import Category, Policy, Recognition, Store
from collectors.ebpf import Settings

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
