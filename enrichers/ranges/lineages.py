"""Who first gathered what a database says: two databases of one lineage are one witness."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agent.core.errors import EnrichError
from agent.core.shipped import shipped

LINEAGES_FILE = Path(__file__).parents[1] / "data" / "lineages.yaml"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who first gathered what a database says."""

    name: str
    place: bool = True
    """Whether its country is where the address is; not so where it is the registered holder's."""


@cache
def _data() -> dict[str, Any]:
    try:
        data = shipped(LINEAGES_FILE.read_bytes())
        for row in (*data["lineages"], *data["files"]):
            _ = row["name"], row["lineage"]
        return dict(data)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise EnrichError(
            f"{LINEAGES_FILE}: not a list of lineages: {error}; install sekisho again"
        ) from error


def name_of(sha256: str) -> str:
    """The name of a database whose own metadata gives it a general one; empty if its hash is not on record."""
    return next((str(row["name"]) for row in _data()["files"] if row["sha256"] == sha256), "")


def lineage_of(database_name: str) -> Lineage | None:
    """The lineage of a database by its name; None if it is not on record. The longest beginning decides."""
    fits = [row for row in _data()["lineages"] if database_name.startswith(row["name"])]
    if not fits:
        return None
    row = max(fits, key=lambda fit: len(fit["name"]))
    return Lineage(row["lineage"], row.get("place", True))


def independent(first: Lineage | None, second: Lineage | None) -> bool:
    """Whether two databases are two witnesses of a place: both lineages are known, differ, and speak of places."""
    if first is None or second is None:
        return False
    return first.name.lower() != second.name.lower() and first.place and second.place
