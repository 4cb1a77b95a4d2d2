"""How the traffic of a store is told from other traffic."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from agent.policy.networks import NetworkField
from agent.policy.values import Entry, ExecutableField, PortField, UnitField

THIS_HOST = "this"
"""Stands for the reporting host in ``hosts``."""


class Recognition(Entry):
    """How traffic of a store is told from other traffic; at least one line is needed.

    ``hosts``, ``addresses`` and ``pods`` say where the store is; without any of them it is on the reporting host.
    Everything that leaves that place counts for the store. The other lines only say what is nearer to it.
    """

    hosts: tuple[str, ...] = Field(
        (), description="Host names whose every egress counts; `this` is the reporting host"
    )
    addresses: tuple[NetworkField, ...] = Field((), description="Local addresses or networks of the store")
    ports: tuple[PortField, ...] = Field((), description="Local ports that the store listens on")
    processes: tuple[str, ...] = Field((), description="Process names, such as postgres")
    executables: tuple[ExecutableField, ...] = Field(
        (), description="Whole paths of executables; * for any part"
    )
    units: tuple[UnitField, ...] = Field((), description="systemd units; * for any part")
    containers: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        (), description="Container ids or their beginnings"
    )
    pods: tuple[str, ...] = Field(
        (), description="Kubernetes pods, namespace/name; * at the end matches any ending"
    )

    def is_empty(self) -> bool:
        """Nothing is named, so nothing would match."""
        return not any(getattr(self, name) for name in type(self).model_fields)

    @property
    def places(self) -> tuple[str, ...]:
        """Host names of the store in lower case; ``this`` alone if no place at all is named."""
        named = self.hosts or self.addresses or self.pods
        return tuple(h.lower() for h in self.hosts) if named else (THIS_HOST,)

    def is_on(self, host: str) -> bool:
        """Whether it names this host, or ``this``."""
        return any(place == THIS_HOST or same_host(place, host.lower()) for place in self.places)

    def meets(self, other: Recognition) -> bool:
        """Whether the two may be in one place: a common host name, pod, or overlapping addresses."""
        return (
            any(same_host(a, b) for a in self.places for b in other.places)
            or any(a.version == b.version and a.overlaps(b) for a in self.addresses for b in other.addresses)
            or any(_pods_meet(a, b) for a in self.pods for b in other.pods)
        )


def same_host(a: str, b: str) -> bool:
    """Whether two names in lower case may mean one host: equal, or one is short and equals the other's first label."""
    if a == b:
        return True
    if "." in a and "." in b:
        return False
    return a.partition(".")[0] == b.partition(".")[0]


def _pods_meet(a: str, b: str) -> bool:
    return a == b or any(
        one.endswith("*") and other.removesuffix("*").startswith(one[:-1]) for one, other in ((a, b), (b, a))
    )
