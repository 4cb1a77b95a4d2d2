"""Small MaxMind DB files for tests: any record size, IPv4 or IPv6, with prefixes that lead to the IPv4 tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter, SearchTreeNode, TreeWriter
from netaddr import IPSet

BUILT_S = 1_788_220_800
"""2026-09-01 00:00 UTC."""
MAXMIND_ALIASES = ("::ffff:0:0/96", "2001::/32", "2002::/16")
"""The prefixes that real files let lead to IPv4."""
COUNTRIES: Mapping[str, Any] = {
    "192.0.2.0/25": {"country": {"iso_code": "JP"}},
    "198.51.100.0/24": {"country_code": "DE"},
    "0.0.0.0/8": {"country_code": "US"},
    "20.0.0.0/8": {"country": {"iso_code": "US"}},
    "30.0.0.0/8": {"registered_country": {"iso_code": "FR"}},
    "2001:db8::/32": {"country": {"iso_code": "JP"}},
    "2600::/16": {"country": {"iso_code": "US"}},
}
"""A country database that answers for a few made-up networks, in the key names of several makers."""
NETWORKS: Mapping[str, Any] = {
    "20.0.0.0/9": {"autonomous_system_number": 64500, "autonomous_system_organization": "Example Networks"},
    "20.128.0.0/9": {"autonomous_system_number": 64501, "autonomous_system_organization": "Other Networks"},
    "30.0.0.0/8": {"autonomous_system_number": 64502},
    "2600::/16": {"autonomous_system_number": 64500, "autonomous_system_organization": "Example Networks"},
}


def write(
    path: Path,
    records: Mapping[str, Any],
    *,
    ip_version: int = 6,
    record_size: int | None = None,
    aliases: Sequence[str] = (),
    database_type: str = "Test-Database",
    built_s: int = BUILT_S,
) -> Path:
    """A database of these networks and records, in that order: a later one wins inside an earlier one."""
    writer = MMDBWriter(ip_version, database_type, ipv4_compatible=ip_version == 6)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    for alias in aliases:
        _alias(writer, alias)
    _Tree(writer.tree, {**writer._build_meta(), "build_epoch": built_s}, record_size).write(str(path))
    return path


def _alias(writer: MMDBWriter, alias: str) -> None:
    """Let a prefix lead to the node under which IPv4 lies."""
    root = writer.tree
    for _ in range(96):
        root = root.get_or_create(0)
    network = ip_network(alias)
    bits = f"{int(network.network_address):0128b}"[: network.prefixlen]
    node = writer.tree
    for bit in bits[:-1]:
        node = node.get_or_create(int(bit))
    node[int(bits[-1])] = root


class _Tree(TreeWriter):  # type: ignore[misc]
    """The writer with a record size of our choice, and each shared node visited once."""

    def __init__(self, tree: SearchTreeNode, meta: dict[str, Any], record_size: int | None) -> None:
        super().__init__(tree, meta)
        self._wanted = record_size

    def _enumerate_nodes(self, node: Any) -> None:
        if id(node) not in self._node_idx:
            super()._enumerate_nodes(node)

    def _adjust_record_size(self) -> None:
        super()._adjust_record_size()
        if self._wanted is not None:
            self.record_size = self._wanted
            self.data_offset = self.record_size * 2 / 8 * self._node_counter
