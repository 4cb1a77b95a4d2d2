"""Store attribution and the scope of remote addresses."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.address import SPECIAL_SCOPES, parse
from agent.core.flow import BatchHeader, FlowBatch, Mark, Text
from agent.core.stages import Context
from agent.policy.model import Policy
from enrichers.asset import BASES, Asset, Settings

HOST = "db1"


def policy(*stores: dict[str, Any], sites: tuple[str, ...] = ()) -> Policy:
    full = [{"categories": ["research"], **store} for store in stores]
    own = [{"id": "own", "networks": sites}] if sites else []
    return Policy.model_validate({"tenant": "t", "version": "0123456789ab", "stores": full, "sites": own})


def batch(*rows: dict[str, Any], host: str = "") -> FlowBatch:
    """Rows from 192.0.2.1:40000 to 203.0.113.1, opened from here, by nothing known, unless said otherwise."""
    n = len(rows)
    texts = ("initiator", "process", "executable", "unit", "container", "pod")
    columns: dict[str, Any] = {
        "local_address": parse(r.get("local_address", "192.0.2.1") for r in rows),
        "remote_address": parse(r.get("remote_address", "203.0.113.1") for r in rows),
        "local_port": np.array([r.get("local_port", 40000) for r in rows], np.int32),
        "protocol": np.full(n, 6, np.uint8),
        "marks": np.array([r.get("marks", 0) for r in rows], np.uint16),
        **{t: Text.of(r.get(t, "local" if t == "initiator" else None) for r in rows) for t in texts},
    }
    counts = ("flows", "octets_out", "packets_out", "octets_in", "packets_in", "content_octets_out")
    columns |= {name: np.ones(n, np.int64) for name in (*counts, "start_ns", "end_ns")}
    return FlowBatch.build(n, columns, BatchHeader(host=host))


def attributed(p: Policy, *rows: dict[str, Any], host: str = "", me: str = HOST) -> list[tuple[Any, Any]]:
    out = Asset(p, me).enrich(batch(*rows, host=host))
    return list(zip(out.text("store").decode(), out.text("basis").decode(), strict=True))


EHR = {"id": "ehr", "recognise": {"hosts": ["this"], "ports": [5432], "processes": ["postgres"]}}


def test_nearest_basis_wins() -> None:
    """Each row is told by the nearest thing that ties it to the store, down to the mere host."""
    store = {
        "id": "s",
        "recognise": {
            "hosts": ["this"],
            "ports": [5432],
            "processes": ["postgres"],
            "executables": ["/usr/bin/pg_dump"],
            "units": ["pg.service"],
            "containers": ["abc"],
            "pods": ["prod/db-*"],
        },
    }
    accepted = {"local_port": 5432, "initiator": "remote"}
    rows: list[dict[str, Any]] = [
        {"process": "postgres", **accepted, "unit": "pg.service"},
        {"executable": "/usr/bin/pg_dump"},
        {**accepted, "unit": "pg.service"},
        {"local_port": 5432, "initiator": None},
        {"local_port": 5432, "initiator": "local"},
        {"unit": "pg.service", "container": "abcdef"},
        {"container": "abcdef"},
        {"pod": "prod/db-0"},
        {"pod": "prod/web-0"},
        {"process": "rclone"},
    ]
    bases = [basis for _, basis in attributed(policy(store), *rows)]
    assert bases == [
        "process",
        "process",
        "port",
        "port",
        "same_host",
        "unit",
        "container",
        "same_pod",
        "same_host",
        "same_host",
    ]


def test_upload_by_another_process_counts_for_the_host() -> None:
    """What any process of the store's host sends counts for the store, as same_host."""
    assert attributed(policy(EHR), {"process": "rclone"}, {"process": None}) == [("ehr", "same_host")] * 2


def test_other_hosts_have_no_store() -> None:
    """The same port and process on another host are not the store's."""
    row = {"process": "postgres", "local_port": 5432, "initiator": "remote"}
    assert attributed(policy(EHR), row, host="db2") == [(None, None)]
    assert attributed(policy(EHR), row, host="DB1.example.org") == [("ehr", "process")]


def test_store_without_a_place_is_on_this_host() -> None:
    """A store that names neither host, address nor pod is on the reporting host."""
    store = {"id": "s", "recognise": {"ports": [5432]}}
    assert attributed(policy(store), {}) == [("s", "same_host")]
    assert attributed(policy(store), {}, host="db2") == [(None, None)]


def test_named_hosts() -> None:
    """A short host name and a full one with the same first label are one host; two full ones must be equal."""
    store = {"id": "s", "recognise": {"hosts": ["DB7.example.org"]}}
    hosts = ["db7", "db7.example.org", "db7.example.com", "db8", ""]
    found = [attributed(policy(store), {}, host=host)[0][0] for host in hosts]
    assert found == ["s", "s", None, None, None]


def test_addresses_are_a_place() -> None:
    """A store at an address takes what leaves that address, on whatever host it was seen."""
    store = {"id": "s", "recognise": {"addresses": ["192.0.2.8/29", "2001:db8:1::/48"], "ports": [443]}}
    rows: list[dict[str, Any]] = [
        {"local_address": "192.0.2.9"},
        {"local_address": "192.0.2.9", "local_port": 443, "initiator": "remote"},
        {"local_address": "2001:db8:1::5"},
        {"local_address": "192.0.2.1", "local_port": 443, "initiator": "remote"},
    ]
    assert attributed(policy(store), *rows, host="elsewhere") == [
        ("s", "same_host"),
        ("s", "port"),
        ("s", "same_host"),
        (None, None),
    ]


def test_pods_are_a_place() -> None:
    """A store in a pod takes that pod's rows and no others of the host."""
    store = {"id": "s", "recognise": {"pods": ["prod/db-0"], "ports": [5432]}}
    rows: list[dict[str, Any]] = [
        {"pod": "prod/db-0"},
        {"pod": "prod/db-0", "local_port": 5432, "initiator": "remote"},
        {"pod": "prod/db-01"},
        {"local_port": 5432, "initiator": "remote"},
    ]
    assert attributed(policy(store), *rows) == [("s", "same_pod"), ("s", "port"), (None, None), (None, None)]


def test_two_stores_on_one_host() -> None:
    """Nearer basis wins over file order; what only the host ties goes to the first store of the file."""
    other = {"id": "files", "recognise": {"hosts": ["this"], "processes": ["smbd"]}}
    rows: list[dict[str, Any]] = [{"process": "smbd"}, {"process": "postgres"}, {"process": "rclone"}]
    assert attributed(policy(EHR, other), *rows) == [
        ("files", "process"),
        ("ehr", "process"),
        ("ehr", "same_host"),
    ]
    assert attributed(policy(other, EHR), rows[2]) == [("files", "same_host")]


def test_copies_count_for_their_original() -> None:
    """Rows of a copy, and of a copy of it, belong to the original with basis copy_of; any other basis is nearer."""
    copies = [
        {"id": "backup", "copy_of": "ehr", "recognise": {"addresses": ["192.0.2.9"]}},
        {"id": "clone", "copy_of": "backup", "recognise": {"addresses": ["192.0.2.10"], "ports": [5432]}},
    ]
    rows: list[dict[str, Any]] = [
        {"local_address": "192.0.2.9"},
        {"local_address": "192.0.2.10", "local_port": 5432, "initiator": "remote"},
    ]
    assert attributed(policy(EHR, *copies), *rows, host="nas") == [("ehr", "copy_of")] * 2
    here = {"id": "nas", "recognise": {"hosts": ["nas"]}}
    assert attributed(policy(EHR, *copies, here), *rows, host="nas") == [("nas", "same_host")] * 2


def test_process_names_are_cut_as_linux_cuts_them() -> None:
    """A long process name in the policy is found under the 15 characters that Linux reports."""
    store = {"id": "s", "recognise": {"processes": ["clickhouse-server"]}}
    rows = [{"process": "clickhouse-serv"}, {"process": "clickhouse-server"}, {"process": "clickhouse"}]
    assert [basis for _, basis in attributed(policy(store), *rows)] == ["process", "process", "same_host"]


def test_rows_in_transit_have_no_store() -> None:
    """A row with no local end left no store; a row of our own is attributed like any other."""
    rows = [{"marks": int(Mark.TRANSIT)}, {"marks": int(Mark.SELF)}]
    assert attributed(policy(EHR), *rows) == [(None, None), ("ehr", "same_host")]


def test_public_service_keeps_its_rows() -> None:
    """A store that answers strangers keeps its rows; which of them count is for the rules."""
    store = {"id": "web", "public_service": True, "recognise": {"hosts": ["this"], "ports": [443]}}
    assert attributed(policy(store), {"local_port": 443, "initiator": "remote"}) == [("web", "port")]


def scopes(p: Policy, *addresses: str) -> list[str | None]:
    out = Asset(p, HOST).enrich(batch(*({"remote_address": a} for a in addresses)))
    return out.text("remote_scope").decode()


def test_scope_of_remote_addresses() -> None:
    """Own sites are internal, special-purpose addresses have their own names, the rest is external."""
    asked = {
        "203.0.113.7": "external",
        "8.0.0.1": "external",
        "198.51.100.9": "internal",
        "10.1.2.3": "internal",
        "10.9.2.3": "private",
        "192.168.0.1": "private",
        "127.0.0.1": "loopback",
        "169.254.1.1": "link_local",
        "224.0.0.251": "multicast",
        "255.255.255.255": "broadcast",
        "0.0.0.0": "unspecified",
        "100.64.0.1": "shared",
        "240.0.0.1": "reserved",
        "2001:db8:5::1": "internal",
        "2001:db8:6::1": "external",
        "fd00::1": "private",
        "fe80::1": "link_local",
        "ff02::1": "multicast",
        "::1": "loopback",
        "::": "unspecified",
        "100::1": "reserved",
    }
    own = policy(sites=("198.51.100.0/24", "10.1.0.0/16", "2001:db8:5::/48"))
    assert dict(zip(asked, scopes(own, *asked), strict=True)) == asked
    assert scopes(policy(), "10.1.2.3", "198.51.100.9") == ["private", "external"]


NETWORKS = [
    "10.0.0.0/8",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "203.0.113.128/25",
    "255.255.255.0/24",
    "2001:db8::/32",
    "::/0",
]
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(NETWORKS), unique=True, max_size=4), st.lists(ADDRESSES, min_size=1, max_size=20)
)
def test_scopes_equal_a_plain_search(own: list[str], addresses: list[str]) -> None:
    """Any address has the scope that a search through the networks one by one gives."""

    def plain(text: str) -> str:
        address = ipaddress.ip_address(text)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        wide = ipaddress.IPv6Address(f"::ffff:{address}") if address.version == 4 else address
        for name, networks in (("internal", tuple(own)), *SPECIAL_SCOPES):
            parsed = [ipaddress.ip_network(n) for n in networks]
            if any(address in n or wide in n for n in parsed):
                return name
        return "external"

    assert scopes(policy(sites=tuple(own)), *addresses) == [plain(a) for a in addresses]


def test_tenant_and_version() -> None:
    """Every row says whose data it is, and the enricher says by which policy."""
    asset = Asset(policy(EHR), HOST)
    assert asset.enrich(batch({}, {})).text("tenant").decode() == ["t", "t"]
    assert (asset.versions(), asset.reload()) == ({"policy": "0123456789ab"}, False)


def test_rows_and_amounts_stay(tmp_path: Path) -> None:
    """Only the four columns change; without a policy no row has a store."""
    asset = Settings().build(Context(accounts=Accounts(), state_dir=tmp_path, host=HOST))
    before = batch({}, {"remote_address": "10.0.0.1"})
    after = asset.enrich(before)
    assert after.amounts() == before.amounts()
    assert [{k: v for k, v in row.items() if k not in asset.adds} for row in after.rows()] == [
        {k: v for k, v in row.items() if k not in asset.adds} for row in before.rows()
    ]
    assert [(r["store"], r["basis"], r["tenant"], r["remote_scope"]) for r in after.rows()] == [
        (None, None, "default", "external"),
        (None, None, "default", "private"),
    ]
    assert len(asset.enrich(FlowBatch.empty())) == 0


NAMES = st.sampled_from([None, "postgres", "smbd", "rclone"])


@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from([5432, 445, 1]), st.sampled_from(["local", "remote", None])),
        max_size=12,
    ),
    st.booleans(),
)
def test_attribution_equals_a_plain_search(rows: list[tuple[Any, int, Any]], here: bool) -> None:
    """Each row has the store and basis that asking store by store and basis by basis gives."""
    stores = [
        ("a", {"ports": [5432], "processes": ["postgres"]}),
        ("b", {"hosts": ["this"], "ports": [445], "processes": ["smbd"]}),
    ]

    def plain(process: str | None, port: int, initiator: str | None) -> tuple[str | None, str | None]:
        claims = [(BASES.index("same_host"), number) for number in range(2)]
        for number, (_, known) in enumerate(stores):
            claims += [(BASES.index("process"), number)] if process in known["processes"] else []
            claims += (
                [(BASES.index("port"), number)] if port in known["ports"] and initiator != "local" else []
            )
        rank, number = min(claims)
        return (stores[number][0], BASES[rank]) if here else (None, None)

    p = policy(*({"id": name, "recognise": known} for name, known in stores))
    given_rows = [{"process": n, "local_port": port, "initiator": i} for n, port, i in rows]
    found = attributed(p, *given_rows, host="" if here else "db2")
    assert found == [plain(*row) for row in rows]


@pytest.mark.parametrize("name", sorted(Asset.reads | Asset.adds))
def test_columns_declared_are_of_the_schema(name: str) -> None:
    """What the enricher says it reads and adds are columns of the schema."""
    from agent.core.flow import BY_NAME

    assert name in BY_NAME


def test_a_star_stands_for_any_part_of_an_executable_or_unit() -> None:
    """Executables and units with * match whatever version or instance runs."""
    known = {"executables": ["/usr/lib/postgresql/*/bin/postgres"], "units": ["postgresql@*.service"]}
    rows: list[dict[str, Any]] = [
        {"executable": "/usr/lib/postgresql/15/bin/postgres"},
        {"executable": "/tmp/postgres", "unit": "postgresql@15-main.service"},
        {"executable": "/tmp/postgres", "unit": "other.service"},
    ]
    found = attributed(policy({"id": "s", "recognise": known}), *rows)
    assert found == [("s", "process"), ("s", "unit"), ("s", "same_host")]
