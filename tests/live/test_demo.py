"""The demonstration: PostgreSQL data leaves a namespace in two ways and ends in one case."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.tools.places import ROOT


@pytest.mark.root
@pytest.mark.slow
def test_the_demonstration_ends_in_one_case() -> None:
    """A COPY by a client and an upload of a dump by another process are one transfer to one owner: one case."""
    program = shutil.which("sekisho")
    assert program is not None
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/examples/demo.py"), "--megabytes", "80", "--sekisho", program],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "-- 1 case: " in said
    assert '"restricted-owners"' in said
    assert "basis port" in said
    assert "basis same_host" in said
