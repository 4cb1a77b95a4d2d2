"""The standard's own JSON schemas of the OCSF classes that sekisho writes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "data" / "ocsf"


@cache
def validator(name: str) -> Draft202012Validator:
    """Of a class by its name in snake case."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


def faults(event: dict[str, Any]) -> list[str]:
    """What the schema of the event's class holds against it; the event is read back from its JSON first."""
    name = event["class_name"].lower().replace(" ", "_")
    return [f"{e.json_path}: {e.message}" for e in validator(name).iter_errors(json.loads(json.dumps(event)))]
