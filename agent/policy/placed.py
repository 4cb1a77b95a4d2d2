"""Entries of policy files together with the place where they stand, for checks across files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from agent.core.errors import Fault
from agent.policy.document import Document, KeyPath

Entry = TypeVar("Entry", bound=BaseModel)
Outer = TypeVar("Outer", bound=BaseModel)


@dataclass(frozen=True)
class Placed(Generic[Entry]):
    """One entry of a list in a policy file."""

    id: str
    value: Entry | None
    """None if it could not be read; its faults are reported elsewhere."""
    document: Document
    keys: KeyPath

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.document.name}:{self.document.line_of(self.keys)}"

    def fault(self, message: str, advice: str = "", at: Sequence[str | int] = ()) -> Fault:
        """A fault in this entry, on the line of ``at`` within it."""
        return self.document.fault((*self.keys, *at), message, advice)


def entries(
    documents: Sequence[Document], key: str, model: type[Entry], whole: Mapping[str, BaseModel] | None = None
) -> list[Placed[Entry]]:
    """Every entry under the top-level ``key``, readable or not, in the order read.

    ``whole``: documents that could be read as a whole, by name, so that nothing is read a second time.
    """
    return [placed for document in documents for placed in _entries(document, key, model, whole or {})]


def _entries(
    document: Document, key: str, model: type[Entry], whole: Mapping[str, BaseModel]
) -> Iterator[Placed[Entry]]:
    items = document.data.get(key) if isinstance(document.data, dict) else None
    values = getattr(whole[document.name], key) if document.name in whole else None
    for index, item in enumerate(items if isinstance(items, list) else ()):
        name = str(item.get("id", "")) if isinstance(item, dict) else ""
        if values is not None:
            yield Placed(name, values[index], document, (key, index))
            continue
        try:
            yield Placed(name, model.model_validate(item), document, (key, index))
        except ValidationError:
            yield Placed(name, None, document, (key, index))


def inner(
    placed: Sequence[Placed[Outer]], key: str, values: Callable[[Outer], Sequence[Entry]]
) -> list[Placed[Entry]]:
    """What stands in a list inside of readable entries, each with its own place."""
    return [
        Placed("", value, outer.document, (*outer.keys, key, index))
        for outer in placed
        if outer.value is not None
        for index, value in enumerate(values(outer.value))
    ]


def repeated(kind: str, placed: Sequence[Placed[Entry]]) -> Iterator[Fault]:
    """A fault for each id that an earlier entry has already."""
    first: dict[str, Placed[Entry]] = {}
    for entry in placed:
        if entry.id and (before := first.setdefault(entry.id, entry)) is not entry:
            yield entry.fault(
                f"{kind} `{entry.id}` is given twice, first at {before.where}",
                "rename or remove one",
                ("id",),
            )
