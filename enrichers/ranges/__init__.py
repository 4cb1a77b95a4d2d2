"""Tables of address ranges: what the geo and owner enrichers, and ``sekisho who``, answer from. A library of its room.

    MMDB file ──mmdb.flatten──> RangeTable ──merge──> RangeTable ──recast──> RangeTable ──find──> row ids
    lists ──clouds.table_of_lists──>   (one search per address, whatever the number of tables)
    networks ──from_networks──>

:mod:`~enrichers.ranges.table` holds the tables and their algebra, :mod:`~enrichers.ranges.mmdb` reads MaxMind DB
files, :mod:`~enrichers.ranges.lists` and :mod:`~enrichers.ranges.clouds` providers' and projects' lists,
:mod:`~enrichers.ranges.places` says what holds in the end, :mod:`~enrichers.ranges.cache` keeps built tables on disk.
"""

from enrichers.ranges.cache import cached, place
from enrichers.ranges.mmdb import Database, Reading, flatten, look_up, open_database
from enrichers.ranges.table import SIX_TO_FOUR, Alias, RangeTable, from_networks, merge, recast

__all__ = [
    "SIX_TO_FOUR",
    "Alias",
    "Database",
    "RangeTable",
    "Reading",
    "cached",
    "flatten",
    "from_networks",
    "look_up",
    "merge",
    "open_database",
    "place",
    "recast",
]
