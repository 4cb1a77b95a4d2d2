"""Rows that relays made, put among the rows of a step."""

from __future__ import annotations

import numpy as np

from agent.core.flow import Text
from agent.detection.admit import AMOUNTS, NUMBERS, TEXTS, Step
from agent.detection.balances import Columns
from agent.detection.cube import RELAY
from agent.detection.keys import NONE


def with_rows(step: Step, more: Columns, names: list[str]) -> Step:
    """The step with the rows that relays made, each after the rows that came before its minute was judged.

    ``names``: the texts that the codes of ``more`` stand for.
    """
    place = np.searchsorted(step.arrays.get("before_ns", np.zeros(0, np.int64)), more["before_ns"])
    n, values = len(more["end_ns"]), tuple(names)
    arrays: Columns = {}
    texts: dict[str, list[str]] = {}
    for name in (*TEXTS, "host"):
        if name in ("basis", "vantage"):
            new = Text.full(n, RELAY)
        else:
            new = Text(more[name].astype(np.int32), values).compact()
        had = step.text(name) if name in step.meta.get("texts", {}) else Text(np.zeros(0, np.int32), ())
        codes = np.where(new.codes >= 0, new.codes + len(had.values), NONE).astype(np.int64)
        arrays[name] = np.insert(had.codes.astype(np.int64), place, codes)
        texts[name] = [*had.values, *new.values]
    for name in (*NUMBERS, *AMOUNTS, "estimated", "start_ns", "end_ns", "before_ns"):
        arrays[name] = np.insert(step.arrays.get(name, np.zeros(0, np.int64)), place, more[name])
    for name in ("local", "remote"):
        had_ends = step.arrays.get(name, np.zeros((0, 2), np.uint64))
        arrays[name] = np.insert(had_ends, place, more[name].view(np.uint64), axis=0)
    arrays["judged"] = np.insert(np.zeros(step.rows, np.int64) if step.arrays else place[:0], place, 1)
    return Step("take", {**step.meta, "texts": texts}, arrays)
