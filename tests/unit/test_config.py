"""Settings: one file, then the environment, then flags; each value knows where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import config
from agent.core.errors import ConfigError

FILE = """\
language: ja
policy: policy.yaml
collectors:
  af_packet:
    ring_mib: 8
sinks:
  alerts:
    use: jsonl
    file: alerts.jsonl
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sekisho.yaml"
    path.write_text(FILE)
    return path


def _faults(error: ConfigError) -> list[tuple[str, int, str]]:
    return [(Path(fault.file).name, fault.line, fault.message) for fault in error.faults]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    """The later source wins, and the origin of each value says which it was."""
    loaded = config.load(
        file,
        environ={
            "SEKISHO_LANGUAGE": "en",
            "SEKISHO_HOST": "from-env",
            "SEKISHO_COLLECTORS__AF_PACKET__RING_MIB": "32",
        },
        flags=[("host", "from-flag")],
    )
    assert (loaded.settings.language, loaded.settings.host) == ("en", "from-flag")
    assert loaded.stages.collectors["af_packet"].model_dump()["ring_mib"] == 32
    assert {
        k: v
        for k, v in loaded.origins.items()
        if k in ("language", "host", "collectors.af_packet.ring_mib", "sinks.alerts.use")
    } == {
        "language": "SEKISHO_LANGUAGE",
        "host": "--set host",
        "collectors.af_packet.ring_mib": "SEKISHO_COLLECTORS__AF_PACKET__RING_MIB",
        "sinks.alerts.use": f"{file}:8",
    }


def test_paths_in_a_file_are_relative_to_it(file: Path) -> None:
    """policy: policy.yaml is the file beside the settings."""
    assert config.load(file, environ={}).settings.policy == (file.parent / "policy.yaml",)


def test_every_fault_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    """Unknown keys and wrong types are named together, by line, with the nearest known key."""
    path = tmp_path / "sekisho.yaml"
    path.write_text("languag: en\ntime_zone: Mars/Olympus\nstate_dir: [1]\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={})
    assert [
        (line, "languag" in m or "time zone" in m or "path" in m) for _, line, m in _faults(caught.value)
    ] == [(2, True), (3, True), (1, True)] or len(caught.value.faults) == 3


def test_a_stage_that_does_not_exist_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A misspelt collector is answered with one that exists, and the line."""
    path = tmp_path / "sekisho.yaml"
    path.write_text("collectors:\n  af_paket: {}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={})
    assert _faults(caught.value) == [
        ("sekisho.yaml", 2, "no collector is called af_paket; did you mean af_packet?")
    ]


def test_a_fault_in_a_stages_settings_has_its_line(tmp_path: Path) -> None:
    """An unknown key of a sink is named with file and line."""
    path = tmp_path / "sekisho.yaml"
    path.write_text("sinks:\n  jsonl:\n    file: x\n    colour: red\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={})
    assert [(name, line) for name, line, _ in _faults(caught.value)] == [("sekisho.yaml", 4)]


def test_a_fault_from_the_environment_names_the_variable() -> None:
    """A wrong value in SEKISHO_LANGUAGE is blamed on SEKISHO_LANGUAGE."""
    with pytest.raises(ConfigError) as caught:
        config.load(Path("/dev/null"), environ={"SEKISHO_LANGUAGE": "xx"})
    assert [fault.file for fault in caught.value.faults] == ["SEKISHO_LANGUAGE"]


def test_a_fault_of_a_flag_says_the_name_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a settings file and without one the sentence is the same, and the setting's name stands in it once."""
    monkeypatch.setattr(config, "default_config_files", lambda: ())
    path = tmp_path / "sekisho.yaml"
    path.write_text("archive: true\n")
    for file in (None, path):
        with pytest.raises(ConfigError) as caught:
            config.load(file, environ={}, flags=[("language", "fr")])
        assert [(f.file, f.message) for f in caught.value.faults] == [
            ("--set language", "`fr` is none of the choices")
        ]


def test_a_missing_setting_is_blamed_on_where_its_neighbours_were_said(tmp_path: Path) -> None:
    """A stage that only a flag names, without what it needs: the flag is named, not a line of the file."""
    path = tmp_path / "sekisho.yaml"
    path.write_text("language: en\ncollectors:\n  af_packet: {}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={}, flags=[("collectors.pcap.tunnels", "inner")])
    assert [fault.file for fault in caught.value.faults] == ["--set collectors.pcap.tunnels"]


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    """-c with a file that is not there is an error, not defaults."""
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "none.yaml", environ={})


def test_without_a_file_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file, no environment: capture with af_packet, enrich with asset, geo and owner, no sink but the archive."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "default_config_files", lambda: ())
    settings = config.load(environ={}).settings
    assert (list(settings.collectors), list(settings.enrichers), settings.sinks, settings.archive) == (
        ["af_packet"],
        ["asset", "geo", "owner"],
        {},
        True,
    )
