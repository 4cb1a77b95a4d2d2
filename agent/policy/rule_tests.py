"""Tests that stand beside a rule: rows that are sent, and what it must find of them.

    tests:
      - name: a new receiver takes 2 GB within an hour
        given:
          - {sends: 2 GB, lasts: 1h, to: {asn: 64500, owner_country: CN}}
        expect: medium

They are run by ``sekisho policy test`` through the detector itself, the rule alone and its pack awake, with the clock
of the data. The rows begin at 2026-01-15 00:00 UTC.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from agent.policy.registers import Category
from agent.policy.values import AddressField, Country, DurationNs, Entry, Id, Octets, duration_ns

_MINUTE_NS = 60 * 10**9
Moment = Annotated[
    int,
    BeforeValidator(duration_ns, json_schema_input_type=str),
    Field(ge=0, description="A span after the beginning of the test: 0s, 90m, 20d"),
]


class Receiver(Entry):
    """The other end, by its facts. What is left out is unknown, or as the ownership table has it for the AS, provider or
    owner."""

    asn: Annotated[int, Field(ge=1, le=4294967295)] | None = None
    as_org: str | None = None
    country: Country | None = Field(None, description="Where the address is said to be")
    provider: str | None = Field(None, description="Id of the ownership table")
    owner: str | None = Field(None, description="Id of the ownership table")
    owner_country: Country | None = None
    organised_in: Country | None = None
    address: AddressField | None = Field(None, description="An address of it; default: one of documentation")


class Given(Entry):
    """One row, or some equal ones: who sends how much to whom, when."""

    store: Id | None = Field(
        None, description="Store of the register; default: the rule's first, or an invented one"
    )
    holds: tuple[Category, ...] = Field(
        (), description="What the invented store holds; default: what the rule asks for"
    )
    to: Receiver = Receiver()
    sends: Octets = Field(description="Content octets sent in all")
    at: Moment = 0
    lasts: DurationNs = Field(_MINUTE_NS, description="How long it takes, spread evenly; default 1m")
    receives: Octets = Field(0, description="Octets received in all")
    flows: int = Field(1, ge=0, description="Flows that begin")
    service: Annotated[str, StringConstraints(pattern=r"^(tcp|udp|sctp)/([1-9]\d{0,4})$")] = Field(
        "tcp/443", description="protocol and port of the end that accepted"
    )
    initiator: Literal["local", "remote"] = "local"
    basis: Literal["process", "port", "unit", "container", "same_pod", "same_host", "copy_of"] = "process"
    estimated: bool = Field(False, description="Multiplied up from samples")


Expected = Literal["none", "finding", "informational", "low", "medium", "high", "critical"]


class RuleCase(Entry):
    """Rows, and what the rule must find of them."""

    name: str = Field(min_length=1, description="What it shows, in words")
    given: tuple[Given, ...] = Field(min_length=1)
    expect: Expected = Field(description="`none`, `finding`, or the severity of the highest finding")
