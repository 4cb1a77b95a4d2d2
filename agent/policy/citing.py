"""Facts of law as packs write them: said in both languages, each with the section that gives it and how it was verified."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from agent.policy.values import Entry, Id

Mark = Literal["V", "V2", "N", "S", "K"]
"""V: text of the rule read. V2: a secondary source that cites it. N: a news or other public text. S: a published data
set. K: general knowledge, not verified."""
UNVERIFIED: Final = "K"


class Said(Entry):
    """One text in English and Japanese."""

    en: str = Field(min_length=1)
    ja: str = Field(min_length=1)

    def in_language(self, language: str) -> str:
        """The text in ``en`` or ``ja``."""
        return self.ja if language == "ja" else self.en


def _both(value: Any) -> Any:
    return {"en": value, "ja": value} if isinstance(value, str) else value


SaidField = Annotated[
    Said,
    BeforeValidator(_both, json_schema_input_type=Said | str),
    Field(description="{en: …, ja: …}; one text stands for both"),
]


class Cited(Entry):
    """Anything that rests on a text: the section, when it was read, and how well it was verified."""

    cite: str = Field(min_length=1, description="Section that says it, such as 28 CFR 202.205")
    mark: Mark = Field(description="V text read, V2 secondary source, N news, S data set, K not verified")
    read: date | None = Field(None, description="Day of the version that was read")
    unverified: Literal["", "shown"] = Field(
        "", description="`shown`: it is not verified, and every place that tells it says so"
    )


class Source(Entry):
    """A text that a pack was written from."""

    cite: str = Field(min_length=1)
    read: date | None = Field(None, description="Day of the version that was read")
    mark: Mark


class Fact(Cited):
    """One thing that a regime says, in plain words."""

    id: Id
    says: SaidField
    disputed: bool = Field(False, description="Two texts that were read do not agree")
