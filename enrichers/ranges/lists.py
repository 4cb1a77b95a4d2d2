"""Lists of networks as providers and projects publish them: JSON, CSV, plain text; gzip or not.

Every entry is a prefix with what the list says of it. A list is hostile until proven otherwise: it is bounded, read
whole or refused whole, and the refusal names file and line. Formats are told by their content, never by a file's name:
ip-ranges.json (AWS), ServiceTags (Azure), cloud.json and goog.json (Google), public_ip_ranges.json (Oracle), the ips
call of Cloudflare, public-ip-list (Fastly), CSV with or without a head line (geofeeds as of RFC 8805: DigitalOcean and
others), Tor's exit list, and one prefix per line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from agent.core.errors import DecodeError, EnrichError
from enrichers.ranges.prefixes import PrefixError, Prefixes
from enrichers.ranges.unpacking import gunzipped

MAX_OCTETS = 1 << 27
"""Of the file, and of what a gzip unpacks to."""
MAX_ENTRIES = 4_000_000
FLAGS = ("anycast", "cdn", "hosting", "vpn", "tor", "relay")
"""What kind of address it is, as some list says; in the order in which they are written."""
_MAX_WORD = 100
_HEAD_OCTETS = 4096
_SAID = re.compile(r"^[#;] *(name|date|source|licence): *(.*?)\r?$", re.MULTILINE | re.IGNORECASE)
_DAY = re.compile(r'"(?:createDate|creationTime|last_updated_timestamp)" *: *"(\d{4}-\d{2}-\d{2})')


@dataclass(slots=True)
class Entries:
    """What a list says, an element for each entry; empty text where it says nothing."""

    cidrs: list[str] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Line, or number of the entry, counted from 1."""
    by_line: bool = True

    @property
    def says_nothing(self) -> bool:
        """Whether no entry says anything of its network."""
        return not any(map(any, (self.providers, self.regions, self.services, self.flags)))

    def add(
        self, place: int, cidr: str, provider: str = "", region: str = "", service: str = "", flags: str = ""
    ) -> None:
        """One entry. Raises ``_RefusedError`` beyond ``MAX_ENTRIES``."""
        if len(self.cidrs) >= MAX_ENTRIES:
            raise _RefusedError(place, f"over {MAX_ENTRIES} entries")
        self.places.append(place)
        self.cidrs.append(cidr)
        self.providers.append(_word(provider))
        self.regions.append(_word(region))
        self.services.append(_word(service))
        self.flags.append(flags)


@dataclass(frozen=True, slots=True)
class AddressList:
    """A list's octets; :meth:`read` says what is in them."""

    path: Path
    content: bytes
    """Unpacked."""
    sha256: str
    """Of the file as it stands."""
    name: str
    built: date | None
    """The day that the settings or the list itself state."""
    source: str
    licence: str

    @property
    def version(self) -> str:
        """Name, day and hash: ``tor-exits 2026-11-20 sha256:0123456789ab``."""
        return f"{self.name} {self.built or 'undated'} sha256:{self.sha256[:12]}"

    @property
    def built_s(self) -> int | None:
        """The day as seconds since the epoch."""
        if self.built is None:
            return None
        return int(datetime(self.built.year, self.built.month, self.built.day, tzinfo=UTC).timestamp())

    def read(self) -> tuple[Prefixes, Entries]:
        """Every entry. Raises :class:`EnrichError` with file and line for the first thing wrong."""
        text, entries = _text(self.content, self.path), Entries()
        try:
            if text.lstrip()[:1] in ("{", "["):
                entries.by_line = False
                _json(text, entries)
            else:
                _lines(text, entries)
            if not entries.cidrs:
                raise _RefusedError(0, "there is no network in it")
            return Prefixes.parse(entries.cidrs), entries
        except PrefixError as error:
            raise _fault(self.path, entries.places[error.index], entries.by_line, str(error)) from error
        except _RefusedError as error:
            raise _fault(self.path, error.place, entries.by_line, error.reason) from error


class _RefusedError(Exception):
    def __init__(self, place: int, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(reason)


def open_list(
    path: Path, *, name: str = "", built: date | None = None, source: str = "", licence: str = ""
) -> AddressList:
    """The list of a file, unpacked and hashed, but not read; what is given wins over what its head says.

    Raises :class:`EnrichError` for a file that cannot be read or is too large.
    """
    return list_of(_content(path), path, name=name, built=built, source=source, licence=licence)


def list_of(
    content: bytes,
    path: Path,
    *,
    name: str = "",
    built: date | None = None,
    source: str = "",
    licence: str = "",
) -> AddressList:
    """As :func:`open_list`, of octets; ``path`` is what messages name."""
    plain = _unpacked(content, path)
    beginning = plain[:_HEAD_OCTETS].decode("utf-8-sig", "replace")
    head = {key.lower(): _word(value.strip()) for key, value in _SAID.findall(beginning)}
    day = _DAY.search(beginning)
    return AddressList(
        path=path,
        content=plain,
        sha256=hashlib.sha256(content).hexdigest(),
        name=name or head.get("name", "") or path.name.partition(".")[0],
        built=built or _day(head.get("date", "") or (day[1] if day else "")),
        source=source or head.get("source", ""),
        licence=licence or head.get("licence", ""),
    )


def _fault(path: Path, place: int, by_line: bool, reason: str) -> EnrichError:
    where = f"{path}:{place}" if by_line and place else f"{path}: entry {place}" if place else str(path)
    return EnrichError(f"{where}: {reason}; nothing of this list was taken up")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_OCTETS + 1)
    except OSError as error:
        raise EnrichError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    if len(content) > MAX_OCTETS:
        raise EnrichError(f"{path}: is over {MAX_OCTETS} octets, which no list of networks is")
    return content


def _unpacked(content: bytes, path: Path) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gunzipped(content, MAX_OCTETS)
    except DecodeError as error:
        raise EnrichError(f"{path}: {error}; get it again") from error


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EnrichError(
            f"{path}:{line}: is no UTF-8 text; expected a list of networks as JSON, CSV or plain text"
        ) from error


def _word(value: str) -> str:
    """A word of a list without what could steer a terminal."""
    if value.isascii() and value.isprintable() and len(value) <= _MAX_WORD:
        return value
    return "".join(c if c.isprintable() else " " for c in value).strip()[:_MAX_WORD]


def _day(value: str) -> date | None:
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})", value)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


# Text, a line at a time

_SKIPPED = ("#", ";", "//", "ExitNode ", "Published ", "LastStatus ")
"""Comments, and what Tor's list says of an exit beside its address."""
_HEAD_WORDS = {
    "cidr": "cidr",
    "prefix": "cidr",
    "network": "cidr",
    "ip": "cidr",
    "address": "cidr",
    "ip_prefix": "cidr",
    "provider": "provider",
    "region": "region",
    "service": "service",
    "flags": "flags",
}


def _lines(text: str, entries: Entries) -> None:
    columns: dict[str, int] | None = None
    first = True
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith(_SKIPPED):
            continue
        if line.startswith("ExitAddress "):
            entries.add(number, line.split()[1])
            continue
        if "," not in line:
            entries.add(number, re.split(r"[\s;#]", line, maxsplit=1)[0])
            first = False
            continue
        cells = _cells(number, line)
        if first and columns is None and (named := _head(cells)):
            columns = named
            continue
        first = False
        _row(entries, number, cells, columns)


def _cells(number: int, line: str) -> list[str]:
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise _RefusedError(number, f"is no CSV: {error}") from error


def _head(cells: list[str]) -> dict[str, int]:
    names = [_HEAD_WORDS.get(c.lower().replace(" ", "_"), "") for c in cells]
    return {name: i for i, name in enumerate(names) if name} if "cidr" in names else {}


def _row(entries: Entries, number: int, cells: list[str], columns: dict[str, int] | None) -> None:
    if columns is None:  # RFC 8805: prefix, country, region, city, postal code
        entries.add(number, cells[0], region=cells[2] if len(cells) > 2 else "")
        return
    said = {name: cells[i] if i < len(cells) else "" for name, i in columns.items()}
    cidr = said.pop("cidr")
    if "flags" in said:
        said["flags"] = _flags(number, said["flags"])
    entries.add(number, cidr, **said)


def _flags(number: int, text: str) -> str:
    """Flags as ``vpn+tor``, in whatever way they are joined. Raises ``_RefusedError`` for one that does not exist."""
    found = re.findall(r"[^\s+,;|/]+", text.lower())
    for flag in found:
        if flag not in FLAGS:
            raise _RefusedError(number, f"{_word(flag)!r} is no kind of address; expected {', '.join(FLAGS)}")
    return "+".join(found)


# JSON

_Reader = Callable[[dict[str, Any], Entries], None]


def _json(text: str, entries: Entries) -> None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(0, f"is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise _RefusedError(0, "is a JSON list; expected one of a known provider (docs/databases.md)")
    reader = _reader_of(data)
    try:
        reader(data, entries)
    except (TypeError, KeyError, AttributeError) as error:
        place = len(entries.cidrs) + 1
        raise _RefusedError(place, f"has not the shape that this provider's list has ({error!r})") from error


def _reader_of(data: Mapping[str, Any]) -> _Reader:
    """What reads a provider's list."""
    if "createDate" in data and "prefixes" in data:
        return _aws
    if "values" in data and "changeNumber" in data:
        return _azure
    if "creationTime" in data and "prefixes" in data:
        return _google
    if "regions" in data:
        return _oracle
    if "result" in data:
        return _cloudflare
    if "addresses" in data:
        return _fastly
    raise _RefusedError(
        0, f"is JSON of an unknown kind (keys {sorted(data)[:5]}); expected one of docs/databases.md"
    )


def _aws(data: dict[str, Any], entries: Entries) -> None:
    for rows, key in (("prefixes", "ip_prefix"), ("ipv6_prefixes", "ipv6_prefix")):
        for row in data.get(rows, ()):
            place = len(entries.cidrs) + 1
            entries.add(place, _str(row[key]), "aws", _str(row["region"]), _str(row["service"]))


def _azure(data: dict[str, Any], entries: Entries) -> None:
    for value in data["values"]:
        properties = value["properties"]
        region = _str(properties.get("region") or "")
        service = _str(properties.get("systemService") or value["name"])
        for cidr in properties["addressPrefixes"]:
            entries.add(len(entries.cidrs) + 1, _str(cidr), "azure", region, service)


def _google(data: dict[str, Any], entries: Entries) -> None:
    for row in data["prefixes"]:
        cidr = row.get("ipv4Prefix") or row["ipv6Prefix"]
        region, service = _str(row.get("scope") or ""), _str(row.get("service") or "")
        entries.add(len(entries.cidrs) + 1, _str(cidr), "google-cloud", region, service)


def _oracle(data: dict[str, Any], entries: Entries) -> None:
    for region in data["regions"]:
        for row in region["cidrs"]:
            service = "+".join(sorted(_str(t) for t in row.get("tags", ())))
            place = len(entries.cidrs) + 1
            entries.add(place, _str(row["cidr"]), "oracle-cloud", _str(region["region"]), service)


def _cloudflare(data: dict[str, Any], entries: Entries) -> None:
    for key in ("ipv4_cidrs", "ipv6_cidrs"):
        for cidr in data["result"].get(key, ()):
            entries.add(len(entries.cidrs) + 1, _str(cidr), "cloudflare")


def _fastly(data: dict[str, Any], entries: Entries) -> None:
    for key in ("addresses", "ipv6_addresses"):
        for cidr in data.get(key, ()):
            entries.add(len(entries.cidrs) + 1, _str(cidr), "fastly")


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} where text was expected")
    return value


def written(entries: Iterable[tuple[str, str, str, str]], head: Mapping[str, str]) -> bytes:
    """A list of (prefix, provider, region, service) as the CSV that :func:`read_list` reads, with its head."""
    out = io.StringIO()
    for key, value in head.items():
        out.write(f"# {key}: {value}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("cidr", "provider", "region", "service"))
    writer.writerows(entries)
    return out.getvalue().encode()
