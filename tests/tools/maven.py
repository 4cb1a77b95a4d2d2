"""Jars of Maven Central, fetched by name into a folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

Artifact = tuple[str, str, str]
"""Group, name, version."""
_ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def fetched(artifacts: Sequence[Artifact], folder: Path, *, alone: bool = False) -> Path:
    """The folder with these jars and all that they need, filled once. ``alone``: with nothing that they need.

    Raises ``RuntimeError`` with what is missing.
    """
    if (folder / ".whole").exists():
        return folder
    for program, package in (("java", "default-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is not installed; Debian: apt-get install {package}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "pom.xml").write_text(_pom(artifacts, _ALONE if alone else ""))
        done = subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "dependency:copy-dependencies",
                f"-DoutputDirectory={folder}",
                "-DincludeScope=runtime",
            ],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        names = ", ".join(f"{name} {version}" for _, name, version in artifacts)
        raise RuntimeError(f"Maven could not fetch {names}: {done.stdout.strip()[-2000:]}")
    (folder / ".whole").touch()
    return folder


def _pom(artifacts: Sequence[Artifact], exclusions: str) -> str:
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>"
        f"{exclusions}</dependency>"
        for group, name, version in artifacts
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>sekisho</groupId><artifactId>jars</artifactId>"
        f"<version>1</version><dependencies>{wanted}</dependencies></project>"
    )
