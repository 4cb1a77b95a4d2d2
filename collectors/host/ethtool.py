"""Whether a card may forward by itself what tc or Open vSwitch tell it: asked by ioctl (linux/ethtool.h)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_SET_INFO, _STRINGS, _FEATURES = 0x37, 0x1B, 0x3A  # ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ETHTOOL_GFEATURES
_FEATURE_NAMES: Final = 4  # ETH_SS_FEATURES
_NAME: Final = 32
_MOST: Final = 1024


def features(interface: str) -> frozenset[str]:
    """Names of the features that are on (as ``ethtool -k`` has them inside the kernel); none where it does not tell."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            info = _ask(asked, interface, struct.pack("=IIQI", _SET_INFO, 0, 1 << _FEATURE_NAMES, 0))
            count = min(struct.unpack_from("=I", info, 16)[0], _MOST)
            head = struct.pack("=III", _STRINGS, _FEATURE_NAMES, count)
            names = _ask(asked, interface, head + bytes(_NAME * count))[12:]
            blocks = (count + 31) // 32
            state = _ask(asked, interface, struct.pack("=II", _FEATURES, blocks) + bytes(16 * blocks))
    except OSError:
        return frozenset()
    on = set()
    for place in range(count):
        # struct ethtool_get_features_block: available, requested, active, never_changed
        active = struct.unpack_from("=I", state, 8 + 16 * (place // 32) + 8)[0]
        if active >> place % 32 & 1:
            on.add(names[_NAME * place : _NAME * (place + 1)].split(b"\0")[0].decode("ascii", "replace"))
    return frozenset(on)


def hw_tc_offload(interface: str) -> bool:
    """Whether tc rules may run in the card."""
    return "hw-tc-offload" in features(interface)


def _ask(asked: socket.socket, interface: str, message: bytes) -> bytes:
    data = array.array("B", message)
    request = struct.pack("@16sP16x", interface.encode()[:15], data.buffer_info()[0])
    fcntl.ioctl(asked.fileno(), _SIOCETHTOOL, request)
    return data.tobytes()
