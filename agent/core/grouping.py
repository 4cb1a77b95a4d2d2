"""Rows that are alike in several columns, brought together by one sort instead of one for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROOM = 1 << 62
_WIDE = 1 << 31


def groups(columns: Sequence[NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order that sorts the rows, and where in it each group of equal rows begins. Shapes (n,) and (groups,).

    Columns are integers of shape (n,); the last one sorts first, as with ``np.lexsort``. Equal rows keep their order.
    """
    n = len(columns[0])
    if not n:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    key = np.zeros(n, np.int64)
    span = 1
    for column in reversed(columns):
        dense, width = _dense(column)
        if width == 1:
            continue
        if span * width > _ROOM:
            distinct, key = np.unique(key, return_inverse=True)
            span = len(distinct)
        key = key * width + dense
        span *= width
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The values that occur, sorted. (``np.unique`` loads numpy's masked arrays for it, 20 ms at the start.)"""
    ordered = np.sort(values, axis=None)
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def _dense(column: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """The column as numbers from 0 on in the same order, and one more than the largest."""
    low, high = int(column.min()), int(column.max())
    if high - low < _WIDE:
        return (column - column.dtype.type(low)).astype(np.int64), high - low + 1
    distinct, dense = np.unique(column, return_inverse=True)
    return dense.astype(np.int64), len(distinct)
