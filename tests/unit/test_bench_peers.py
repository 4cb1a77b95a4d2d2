from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import spark, streaming
from tests.tools import maven

JAR = ("org.example", "one", "1.0")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Java and a Maven that keeps the file it was given, and makes an empty jar."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script = """#!/bin/sh
cp pom.xml "$KEPT"
for word in "$@"; do case "$word" in -DoutputDirectory=*) touch "${word#*=}/one.jar";; esac; done
exit ${FAILS:-0}
"""
    for name, text in (("java", "#!/bin/sh\n"), ("mvn", script)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("KEPT", str(tmp_path / "kept.xml"))
    return tmp_path


def test_jars_are_asked_for_by_name_once(programs: Path) -> None:
    """A folder that is whole is not filled again, and jars asked for alone bring nothing that they need."""
    folder = programs / "jars"
    assert maven.fetched([JAR], folder, alone=True) == folder
    pom = (programs / "kept.xml").read_text()
    assert (
        "<groupId>org.example</groupId><artifactId>one</artifactId><version>1.0</version><exclusions>" in pom
    )
    (programs / "kept.xml").unlink()
    assert maven.fetched([JAR], folder, alone=True) == folder
    assert not (programs / "kept.xml").exists()


def test_a_folder_that_maven_left_half_filled_is_not_taken_for_whole(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed fetch says which jars it was, and the next one begins anew."""
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(RuntimeError, match=r"could not fetch one 1\.0"):
        maven.fetched([JAR], programs / "jars")
    (programs / "jars/stale.jar").touch()
    monkeypatch.setenv("FAILS", "0")
    maven.fetched([JAR], programs / "jars")
    assert sorted(file.name for file in (programs / "jars").iterdir()) == [".whole", "one.jar"]


def test_a_peer_is_at_hand_once_it_was_fetched_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place without its mark of this version counts as none; the environment's interpreter goes before it."""
    monkeypatch.setattr(streaming, "_CACHE", tmp_path)
    monkeypatch.delenv("TESTS_QUIX", raising=False)
    peer = streaming.Peer("quix", "quixstreams", "2.0")
    (tmp_path / "quix/bin").mkdir(parents=True)
    (tmp_path / "quix/.ready-1.0").touch()
    assert peer.python is None
    (tmp_path / "quix/.ready-2.0").touch()
    assert peer.python == tmp_path / "quix/bin/python"
    monkeypatch.setenv("TESTS_QUIX", "/elsewhere/python")
    assert peer.command[0] == "/elsewhere/python"


def test_the_query_beside_a_reading_begins_at_the_last_record() -> None:
    """An empty partition is read from its beginning, which is its end."""
    assert json.loads(spark._lasts({"topic": {"0": 25, "1": 1, "2": 0}})) == {
        "topic": {"0": 24, "1": 0, "2": 0}
    }
