"""The folder in which installed databases stand.

country.mmdb  network.mmdb   what the program reads; replaced in one step
*_witness.mmdb               second ones of another lineage, where asked for
providers.csv                the ranges that providers publish
previous/                    the versions before, two of each
databases.json               where each came from, under which terms, with its hash
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.core.errors import EnrichError
from enrichers.ranges.facts import KINDS, Kind

KEEP_PREVIOUS = 2
"""Versions of each kind kept beside the one in force."""
RECORD = "databases.json"
_PREVIOUS = "previous"


Part = Kind | Literal["providers"]
PARTS: tuple[Part, ...] = (*KINDS, "providers")


class Installed(BaseModel):
    """One installed database."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Part
    name: str
    """``dbip-country-lite``."""
    file: str
    version: str
    """UTC day on which it was built, or ``undated``."""
    built_s: int | None = None
    source: str
    """Package, path or address it came from."""
    licence: str = ""
    attribution: str = ""
    sha256: str
    installed_ns: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")


class _Record(BaseModel):
    version: int = 1
    databases: tuple[Installed, ...] = ()


class Shelf:
    """One such folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, kind: Part) -> Path:
        """Where the database or list in force stands."""
        return self.directory / f"{kind}{_suffix(kind)}"

    def record(self) -> dict[Part, Installed]:
        """What was installed. Raises :class:`EnrichError` for a record that cannot be read."""
        path = self.directory / RECORD
        try:
            found = _Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise EnrichError(
                f"{path}: cannot be read: {reason}; run `sekisho db install` to write it anew"
            ) from error
        return {row.kind: row for row in found.databases}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Only one process may change the folder. Raises :class:`EnrichError` if it cannot be written."""
        with self._writable():
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / ".lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise EnrichError(
                        f"{self.directory}: another `sekisho db` is at work here; wait until it is done"
                    ) from None
                yield

    def put(self, rows: list[tuple[Installed, bytes]]) -> None:
        """Put databases in place of those in force, then write the record. Call within :meth:`changing`."""
        known: dict[Part, Installed] = {}
        with contextlib.suppress(EnrichError):
            known = self.record()
        for row, content in rows:
            path = self.path(row.kind)
            if row.kind in known and path.exists() and known[row.kind].sha256 != row.sha256:
                self._keep(known[row.kind], path)
            _write(path, content)
            known[row.kind] = row
        record = _Record(databases=tuple(known[kind] for kind in PARTS if kind in known))
        _write(self.directory / RECORD, record.model_dump_json(indent=2).encode())

    def _keep(self, row: Installed, path: Path) -> None:
        folder = self.directory / _PREVIOUS
        folder.mkdir(exist_ok=True)
        kept = folder / f"{row.kind}-{row.version}-{row.sha256[:8]}{_suffix(row.kind)}"
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, kept)
        kept.touch()
        old = sorted(
            folder.glob(f"{row.kind}-*{_suffix(row.kind)}"), key=lambda p: p.stat().st_mtime_ns, reverse=True
        )
        for stale in old[KEEP_PREVIOUS:]:
            stale.unlink(missing_ok=True)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = "no space left; free some room, what was installed before is still in place"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                advice = "cannot be written; run as the user of the service, or name another --state-dir"
            else:
                advice = f"cannot be written: {error.strerror}"
            raise EnrichError(f"{self.directory}: {advice}") from error


def _suffix(kind: Part) -> str:
    return ".csv" if kind == "providers" else ".mmdb"


def _write(path: Path, content: bytes) -> None:
    """All of the content or nothing, also after a power cut."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # public data, and the service may be another user
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
