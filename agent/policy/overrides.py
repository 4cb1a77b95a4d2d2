"""Override files: what an operator knows better than the databases about some networks, as YAML or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent.core.errors import Fault, PolicyError
from agent.policy.document import Document, KeyPath
from agent.policy.faults import nearest
from agent.policy.model import Override
from agent.policy.networks import NetworkField
from agent.policy.yamlfile import read, text_of, validate

HEADER = tuple(Override.model_fields)
"""Columns of the CSV form; only ``network`` is needed."""

Found = tuple[Document, tuple[Override, ...]]


class OverrideFile(BaseModel):
    """An override file in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    overrides: tuple[Override, ...] = ()


def read_overrides(path: Path) -> Found:
    """The overrides of a YAML or (by its ending) CSV file. Raises :class:`PolicyError` with every fault."""
    document = _csv(path) if path.suffix.lower() == ".csv" else read(path, kind=PolicyError)
    return document, validate(OverrideFile, document, kind=PolicyError).overrides


def repeated_networks(found: Sequence[Found]) -> Iterator[Fault]:
    """A fault for each network that was given before, in the same file or another."""
    first: dict[NetworkField, str] = {}
    for document, overrides in found:
        for index, override in enumerate(overrides):
            keys: KeyPath = ("overrides", index)
            where = f"{document.name}:{document.line_of(keys)}"
            if (before := first.setdefault(override.network, where)) != where:
                message = f"the network {override.network} is given twice, first at {before}"
                yield document.fault(keys, message, "keep one of them")


def _csv(path: Path) -> Document:
    """A CSV file as the document that its YAML form would be. Empty fields are left out; ``#`` begins a comment line."""
    text, digest, name = text_of(path, kind=PolicyError)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    lines: dict[KeyPath, int] = {(): 1, ("overrides",): 1}
    rows: list[dict[str, str]] = []
    faults: list[Fault] = []
    try:
        for fields in reader:
            values = [field.strip() for field in fields]
            if not any(values) or values[0].startswith("#"):
                continue
            if header is None:
                header = values
                faults += _header_faults(name, reader.line_num, header)
            elif len(values) > len(header):
                message = f"has {len(values)} fields, the header has {len(header)}"
                faults.append(Fault(name, reader.line_num, message, "put text with a comma in quotes"))
            else:
                row = {column: value for column, value in zip(header, values, strict=False) if value}
                keys: KeyPath = ("overrides", len(rows))
                lines.update({(*keys, column): reader.line_num for column in row})
                lines[keys] = reader.line_num
                rows.append(row)
    except csv.Error as error:
        faults.append(Fault(name, reader.line_num, f"cannot be read as CSV: {error}", "look at its quotes"))
    if header is None and not faults:
        faults.append(Fault(name, 0, "is empty", f"the first line is {','.join(HEADER)}"))
    if faults:
        raise PolicyError(faults)
    return Document(name, {"overrides": rows}, lines, digest)


def _header_faults(name: str, line: int, header: Sequence[str]) -> Iterator[Fault]:
    for column in header:
        if column not in HEADER:
            yield Fault(name, line, f"unknown column `{column}`", nearest(column, HEADER))
        elif header.count(column) > 1:
            yield Fault(name, line, f"the column `{column}` is given twice", "keep one of them")
    if "network" not in header:
        yield Fault(name, line, "the column `network` is missing", f"the first line is {','.join(HEADER)}")
