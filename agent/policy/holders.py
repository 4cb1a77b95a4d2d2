"""What an ownership file says: networks and who holds them, owners, and who holds how much of whom."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from agent.policy.faults import wrong
from agent.policy.model import Country, Id

Mark = Literal["V", "V2", "N", "S", "K"]
WEAKNESS: Final[Mapping[str, int]] = {"": -1, "V": 0, "S": 1, "N": 2, "V2": 3, "K": 4}
"""Marks from the strongest to the weakest; no mark at all is no doubt."""
WHOLE: Final = 1_000_000
"""A share of 100 %: shares are whole numbers of a ten-thousandth of a percent, so that sums are exact."""


def weaker(*marks: str) -> str:
    """The weakest of some marks."""
    return max(marks, key=WEAKNESS.__getitem__)


def _day(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a year
    return value.isoformat() if isinstance(value, date) else value


def _share(value: Any) -> Any:
    """Percent as people write it (``18.4``, ``18.4 %``) in ten-thousandths of a percent."""
    text = value.strip().removesuffix("%").strip() if isinstance(value, str) else value
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise wrong("expected a share in percent", "write it as 18.4")
    try:
        share = Decimal(str(text)) * (WHOLE // 100)
    except ArithmeticError:
        raise wrong("expected a share in percent", "write it as 18.4") from None
    if not share.is_finite() or not 0 <= share <= WHOLE:
        raise wrong(f"a share of {text} % cannot be", "a share lies between 0 and 100 %")
    return round(share)


def percent(share: int) -> str:
    """A share as people read it: ``18.4 %``."""
    return f"{(Decimal(share) / (WHOLE // 100)).normalize():f} %"


Day = Annotated[
    str, BeforeValidator(_day), StringConstraints(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
]  # a list's source may give the month alone
Asn = Annotated[int, Field(ge=1, le=4294967295)]
Part = Annotated[int, BeforeValidator(_share)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Designation(_Row):
    """A list that names an owner."""

    name: str = Field(alias="list", min_length=1)
    since: Day | None = Field(None, alias="from")
    until: Day | None = Field(None, alias="to")

    def __str__(self) -> str:
        since = f" from {self.since}" if self.since else ""
        return f"{self.name}{since}" + (f" to {self.until}" if self.until else "")


class Owner(_Row):
    """A company or state that holds networks or other companies. Without a stake that says who holds it, it is an
    ultimate owner."""

    id: Id
    name: str = Field(min_length=1)
    country: Country | None = Field(None, description="Country of its head office")
    organised_in: Country | None = Field(None, description="Country under whose law it is organised")
    share: str = ""
    state_control: bool = False
    designations: tuple[Designation, ...] = ()
    mark: Mark
    source: str = Field(min_length=1)
    checked: date
    disputed: bool = False
    note: str = ""


class Stake(_Row):
    """Who holds how much of whom: an edge of the graph. A share that is not on record counts for nothing."""

    of: Id = Field(description="The owner that is held")
    by: Id = Field(description="The owner that holds it")
    share: Part | None = Field(None, description="Percent of the capital")
    votes: Part | None = Field(None, description="Percent of the votes, where they differ")
    control: bool = Field(False, description="Decides without a majority, as through contracts")
    since: Day | None = Field(None, alias="from")
    until: Day | None = Field(None, alias="to", description="Given up then: it counts no more")
    mark: Mark
    source: str = Field(min_length=1)
    checked: date
    disputed: bool = False
    note: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is in force and beyond dispute."""
        return self.until is None and not self.disputed

    @property
    def decides(self) -> bool:
        """Whether it makes the holder the one who decides: more than half of capital or votes, or control."""
        return self.control or max(self.share or 0, self.votes or 0) * 2 > WHOLE


class Holding(_Row):
    """Networks of one holder, and the step from there to the owner."""

    asns: tuple[Asn, ...] = Field(min_length=1)
    provider: Id
    provider_name: str = Field(min_length=1)
    organisation: str = Field(min_length=1, description="Registered organisation")
    organised_in: Country | None = None
    owner: Id
    link: Mark | None = Field(None, description="How well the step from holder to owner was verified")
    share: str = ""
    checked: date | None = None
    disputed: bool = False
    review: bool | None = Field(
        None, description="Default: yes for one organised in the US whose owner's head office is elsewhere"
    )
    note: str = ""


class OwnershipFile(_Row):
    """An ownership table as it is written."""

    version: Literal[1]
    updated: date
    owners: tuple[Owner, ...] = ()
    stakes: tuple[Stake, ...] = ()
    networks: tuple[Holding, ...] = ()
