"""What the programs write, as numpy types: the structs of ``sekisho.h``. Checked against the maps when they are opened."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

LAYOUT: Final = 1
"""As in ``sekisho.h``."""

KEY: Final = np.dtype(
    [
        ("cookie", "=u8"),
        ("local", ">u8", 2),
        ("remote", ">u8", 2),
        ("local_port", ">u2"),
        ("remote_port", ">u2"),
        ("protocol", "u1"),
        ("zero", "V3"),
    ]
)

VALUE: Final = np.dtype(
    [
        ("octets_out", "=i8"),
        ("octets_in", "=i8"),
        ("packets_out", "=i8"),
        ("packets_in", "=i8"),
        ("content_out", "=i8"),
        ("first_ns", "=i8"),
        ("last_ns", "=i8"),
        ("origin", "=u8"),
        ("cgroup", "=i8"),
        ("since_ns", "=i8"),
        ("netns", "=u8"),
        ("tgid", "=u4"),
        ("uid", "=u4"),
        ("ifindex", "=u4"),
        ("own", ">u8", 2),
        ("own_port", "=u2"),
        ("flags_out", "=u2"),
        ("flags_in", "=u2"),
        ("source", "u1"),
        ("role", "u1"),
        ("bits", "u1"),
        ("zero", "V3"),
        ("comm", "S16"),
    ]
)

TOTALS: Final = np.dtype(
    [
        (name, "=i8")
        for name in (
            "octets_out",
            "octets_in",
            "over_octets_out",
            "over_octets_in",
            "over_packets_out",
            "over_packets_in",
            "over_content_out",
            "inserts",
            "unread",
        )
    ]
)
"""One per CPU, cumulative since the maps were made."""

NOTES_OCTETS: Final = 256
NOTES: Final = np.dtype(
    {
        "names": ["layout", "program", "instance", "epoch", "read_epoch", "settled", "read"],
        "formats": ["=u8", "V32", "V16", "=i8", "=i8", (TOTALS, ()), (TOTALS, ())],
        "offsets": [0, 8, 40, 56, 64, 72, 72 + TOTALS.itemsize],
        "itemsize": NOTES_OCTETS,
    }
)
"""The reader's own notes, kept beside the maps.

``program`` is the SHA-256 of the object file and what it was loaded with; ``instance`` is drawn when the maps are made.
``epoch`` is the newest one begun. ``settled`` is what all epochs before it held; ``read`` what they and ``read_epoch`` held.
"""


class Source(IntEnum):
    """How the owner of a socket became known."""

    NOBODY = 0
    MADE = 1
    CONNECTED = 2
    SENT = 3
    FOUND = 4


class Role(IntEnum):
    """Which part a socket plays in its connection."""

    UNKNOWN = 0
    INITIATED = 1
    ACCEPTED = 2


class Bits(IntFlag):
    """What else is known of a row."""

    FIRST_OUT = 1
    """Its first packet went out."""
    CONNECTED = 2
    """Its socket has one remote end."""
    NO_SOCKET = 4
    """The packet had no full socket, such as the last acknowledgement of a closed connection."""


FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PURE_SYN: Final = 0x100
