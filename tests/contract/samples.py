"""How to build each stage for the contract suite, where its defaults alone do not do.

A stage that is not named here is built from ``Settings()``. ``{folder}`` is a folder of the test's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tools.truth import write_pcap

SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("collectors", "pcap"): {"files": ["{folder}/sample.pcap"]},
    ("collectors", "squid"): {"file": "{folder}/access.log", "follow": False},
    ("collectors", "tc"): {
        "interfaces": ["vnet*"],
        "legal_basis": "test",
        "approved_by": "A. Example",
        "approved_on": "2026-01-01",
    },
    ("sinks", "jsonl"): {"file": "{folder}/out.jsonl"},
    ("sinks", "kafka"): {"connection": {"servers": ["127.0.0.1:9"]}},
    ("sinks", "ocsf"): {"file": "{folder}/out.ocsf.jsonl"},
    ("sinks", "webhook"): {"url": "http://127.0.0.1:9/", "secret_file": "{folder}/secret"},
}


def prepare(folder: Path) -> None:
    """Make the files that the settings above name."""
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    write_pcap(folder / "sample.pcap")
    line = "1763712000.123    250 192.0.2.1 TCP_TUNNEL/200 5120 CONNECT a.example:443 - HIER_DIRECT/203.0.113.7 -\n"
    (folder / "access.log").write_text(line * 3)


def settings_of(room: str, name: str, folder: Path) -> dict[str, Any]:
    """The sample settings of a stage, with ``{folder}`` filled in."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{folder}", str(folder))
        return [filled(v) for v in value] if isinstance(value, list) else value

    return {key: filled(value) for key, value in SETTINGS.get((room, name), {}).items()}
