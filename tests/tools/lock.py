"""Write requirements.txt and requirements-dev.txt anew: every dependency pinned, with hashes and without addresses.

Run by ``make lock``. Uses pip-tools, which is fetched for the occasion.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = "# Locked by `make lock`: what pyproject.toml asks for, pinned, with the hashes of every published file.\n"


def main() -> None:
    """Lock both files."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", "pip-tools", "hatchling"], check=True)
        _lock(python, "requirements.txt", [])
        _lock(python, "requirements-dev.txt", ["--extra", "dev", "--constraint", "requirements.txt"])


def _lock(python: str, name: str, more: list[str]) -> None:
    flags = [
        "--generate-hashes",
        "--allow-unsafe",
        "--strip-extras",
        "--no-header",
        "--no-emit-index-url",
        "--no-emit-options",
        "--no-emit-trusted-host",
        "--no-annotate",
        "-q",
        "-U",
    ]
    build = ["--all-build-deps"] if name == "requirements-dev.txt" else ["--build-deps-for", "editable"]
    command = [python, "-m", "piptools", "compile", *flags, *build, *more, "-o", name, "pyproject.toml"]
    subprocess.run(command, check=True, cwd=ROOT)
    path = ROOT / name
    path.write_text(HEAD + path.read_text())


if __name__ == "__main__":
    main()
