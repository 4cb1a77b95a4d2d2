"""A marked payload in many forms, and a search for any piece of it in whatever a run left behind."""

from __future__ import annotations

import base64
import gzip
import lzma
import secrets
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

WINDOW = 10
"""Octets of a piece that are searched for; by chance such a piece never occurs."""


class Marked:
    """32 random letters and digits, again and again: as they are, in capitals, small, in hex and in base64."""

    def __init__(self) -> None:
        self.mark = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32)).encode()
        self.forms = (
            self.mark,
            self.mark.upper(),
            self.mark.lower(),
            self.mark[::-1],
            self.mark.hex().encode(),
            self.mark.hex().upper().encode(),
            *(base64.b64encode(bytes(shift) + self.mark * 3)[4:-4] for shift in range(3)),
        )
        self._needles = [
            twice[at : at + WINDOW]
            for form in self.forms
            for twice in [form * 2]
            for at in range(0, len(form), 4 if len(form) > 100 else 1)
        ]

    def payload(self, octets: int) -> bytes:
        """So many octets, each form in turn."""
        block = b"".join(form * 8 for form in self.forms)
        return (block * (octets // len(block) + 1))[:octets]

    def within(self, data: bytes) -> bool:
        """Whether any piece of any form is in there, as text or as UTF-16."""
        return any(needle in data for needle in self._needles) or any(
            form[:WINDOW].decode().encode("utf-16-le") in data for form in self.forms
        )

    def hits(self, places: Iterable[tuple[str, bytes]]) -> list[str]:
        """The places where it was found."""
        return sorted({name for name, data in places if self.within(data)})


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file below a folder as it lies, and what compressed ones and the columns of Parquet files hold."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        name = str(path.relative_to(folder))
        yield name, data
        if data[:4] == b"PAR1":
            with pq.ParquetFile(path) as file:  # type: ignore[no-untyped-call]
                table = file.read()
                for column in table.column_names:
                    whole = pa.BufferOutputStream()  # type: ignore[no-untyped-call]
                    with pa.ipc.new_stream(whole, table.select([column]).schema) as out:
                        out.write_table(table.select([column]))
                    yield f"{name}:{column}", whole.getvalue().to_pybytes()
                yield f"{name}:metadata", repr(file.metadata.metadata).encode()
        elif data[:2] == b"\x1f\x8b":
            yield f"{name}:plain", gzip.decompress(data)
        elif data[:6] == b"\xfd7zXZ\x00":
            yield f"{name}:plain", lzma.decompress(data)
        elif data[:4] == b"\x28\xb5\x2f\xfd":
            yield f"{name}:plain", zstandard.ZstdDecompressor().decompressobj().decompress(data)
