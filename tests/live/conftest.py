"""What live tests share: two namespaces, and a machine behind the first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tools import guests, netns
from tests.tools.guests import VM4, VM6, Machine
from tests.tools.netns import Pair


@pytest.fixture
def two() -> Iterator[Pair]:
    """A host and its peer."""
    with netns.pair() as made:
        yield made


@pytest.fixture
def vm(two: Pair) -> Iterator[Machine]:
    """A machine, routed."""
    with guests.machine(two.host) as made:
        guests.route(two, made.space, made.tap, "eth0", (VM4, VM6, guests.GATE4, guests.GATE6))
        yield made
