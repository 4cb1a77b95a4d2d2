"""Databases that are broken, cut off, of another kind or hostile: refused in one sentence, what was there before stays."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from agent.cli import main
from tests.tools import mmdb
from tests.tools.program import Outcome, fit_to_be_seen

META = b"\xab\xcd\xefMaxMind.com"


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    return mmdb.write(tmp_path / "made.mmdb", mmdb.COUNTRIES, database_type="Test-Country").read_bytes()


def text(value: str) -> bytes:
    """A MaxMind DB string."""
    return bytes([0x40 | len(value)]) + value.encode()


def number(value: int) -> bytes:
    """A MaxMind DB unsigned 32-bit number."""
    return b"\xc4" + struct.pack(">I", value)


def hostile(nodes: int, tree: bytes, data: bytes = b"\xe0") -> bytes:
    """A file whose metadata says what it likes."""
    facts = {
        "node_count": number(nodes),
        "record_size": b"\xa1\x18",
        "ip_version": b"\xa1\x04",
        "database_type": text("Test"),
        "binary_format_major_version": b"\xa1\x02",
        "binary_format_minor_version": b"\xa0",
        "build_epoch": b"\x04\x02" + struct.pack(">I", mmdb.BUILT_S),
        "languages": b"\x00\x04",
        "description": b"\xe0",
    }
    return (
        tree
        + bytes(16)
        + data
        + META
        + bytes([0xE0 | len(facts)])
        + b"".join(text(key) + value for key, value in facts.items())
    )


def cases(good: bytes) -> dict[str, tuple[bytes, str]]:
    """What is wrong -> (octets, what is said)."""
    loop = bytes(6)
    deep = b"".join(b"\xe1" + text("a") for _ in range(600)) + b"\xe0"
    return {
        "empty": (b"", "not a MaxMind DB that can be read"),
        "text": (b"<html>404 not found</html>", "not a MaxMind DB that can be read"),
        "cut": (good[: len(good) // 2], "not a MaxMind DB that can be read"),
        "without its tree": (good[200:], "its search tree points outside its data"),
        "another kind": (b"", "it is no country database, name another file"),
        "gzip cut": (gzip.compress(good)[:-20], "its gzip is broken"),
        "zip": (b"PK\x03\x04" + bytes(50), "is a zip archive; unpack it and give the .mmdb file in it"),
        "tar": (gzip.compress(bytes(257) + b"ustar" + bytes(300)), "is a tar archive; unpack it"),
        "tree with a loop": (hostile(1, loop), "its search tree"),
        "four thousand million nodes": (hostile(2**32 - 1, bytes(6)), "its metadata is missing or broken"),
        "pointer to nowhere": (
            hostile(1, b"\xff\xff\xff\xff\xff\xff"),
            "its search tree points outside its data",
        ),
        "nested without end": (hostile(1, b"\0\0\x11\0\0\x11", deep), "not a MaxMind DB that can be read"),
    }


NAMES = sorted(cases(b"\0" * 1000))


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_database_is_refused_and_the_old_one_stays(
    name: str, good: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, one sentence that names the file; the database in place still answers as before."""

    def sekisho(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(["--state-dir", str(tmp_path / "state"), *arguments])
        outcome = Outcome(int(ended.value.code or 0), *capsys.readouterr())
        fit_to_be_seen(outcome)
        return outcome

    installed = sekisho("db", "install", "--country", str(tmp_path / "made.mmdb"))
    assert installed.code == 0, installed.text
    octets, said = cases(good)[name]
    if name == "another kind":
        octets = mmdb.write(tmp_path / "net.mmdb", mmdb.NETWORKS, database_type="Test-ASN").read_bytes()
    bad = tmp_path / "bad.mmdb"
    bad.write_bytes(octets)
    refused = sekisho("db", "install", "--country", str(bad))
    assert refused.code == 1, refused.text
    assert len(refused.said) == 1, refused.err
    assert refused.said[0].startswith(f"sekisho: {bad}: "), refused.err
    assert said in refused.said[0]
    assert "place        US" in sekisho("who", "20.0.0.7").out
    assert sekisho("db", "verify").out == "test-country: as installed\n"
    (tmp_path / "state" / "databases" / "country.mmdb").write_bytes(octets)
    assert sekisho("db", "verify").code == 1
    for command in (["who", "20.0.0.7"], ["db", "status"], ["check"]):
        sekisho(*command)


def test_an_address_that_answers_nothing_or_cuts_off_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A place that nobody serves, and one of a kind that is not followed, are named with what to check."""
    for place, said in (
        (
            "http://127.0.0.1:9/country.mmdb",
            "cannot be fetched: [Errno 111] Connection refused; check the address",
        ),
        ("ftp://192.0.2.1/x", "expected a path or an address that begins with http://, https:// or file://"),
        ("http://", "cannot be fetched"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--state-dir", str(tmp_path), "db", "install", "--country", place])
        outcome = Outcome(int(ended.value.code or 0), *capsys.readouterr())
        fit_to_be_seen(outcome)
        assert (outcome.code, said in outcome.err) == (1, True), outcome.err
