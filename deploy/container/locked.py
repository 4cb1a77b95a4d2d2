"""Print the locked lines of some packages, hashes included: python locked.py requirements-dev.txt NAME …"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def lines_of(lock: str, names: list[str]) -> str:
    """The lines of these packages. Exits where one is not locked."""
    found = {block.split("==")[0]: block.rstrip() for block in re.split(r"\n(?=\S)", lock)}
    if missing := [name for name in names if name not in found]:
        sys.exit(f"not locked: {', '.join(missing)}")
    return "\n".join(found[name] for name in names)


if __name__ == "__main__":
    print(lines_of(Path(sys.argv[1]).read_text(), sys.argv[2:]))  # noqa: T201
