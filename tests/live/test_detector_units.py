"""The units of detector, archiver and republisher under a real systemd, installed by the commands of docs/deploy.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest

from collectors.host.cgroups import mounted
from tests.tools import netns
from tests.tools.booted import Booted, booted
from tests.tools.netns import wait_for
from tests.tools.places import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None,
        reason="needs systemd-nspawn (apt-get install systemd-container)",
    ),
]

INSTALL = re.findall(
    r"```sh\n(.*?)```",
    (ROOT / "docs" / "deploy.md").read_text().split("\n## Detector and archiver\n")[1],
    re.DOTALL,
)[0]
FOLDER = "/etc/sekisho-detector"
SETTINGS = """kafka: {servers: ["127.0.0.1:9"], connect_s: 1, request_s: 1}
enrichers: {asset: {}}
republish: {ocsf: true}
"""
UNITS = {
    "sekisho-detect": "state.db",
    "sekisho-archive": "archive/archiver.db",
    "sekisho-republish": "republisher.db",
}


@pytest.fixture(scope="module")
def host() -> Iterator[Booted]:
    """Installed; there is no Kafka."""
    with netns.pair() as two, booted(two.host) as made:
        made.run("sh", "-euxc", INSTALL)
        put = (
            f"printf '%s' '{SETTINGS}' > {FOLDER}/sekisho.yaml; chgrp sekisho-detector {FOLDER}/sekisho.yaml"
        )
        made.run("sh", "-euc", put)
        yield made


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_waits_for_kafka_without_a_right_and_ends_in_order(host: Booted, unit: str) -> None:
    """Each is ready while Kafka is away and says why nothing comes, has no capability and a filter on its calls, writes its
    own state alone, and ends with 0 when it is stopped."""
    host.run("systemctl", "start", unit)
    wait_for(lambda: "kafka_unreachable" in host.journal(unit), "the log to tell of Kafka")
    assert host.show(unit, "ActiveState") == "active"
    text = host.run("cat", f"/proc/{host.show(unit, 'MainPID')}/status")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    capabilities = {int(status[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")}
    assert capabilities == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    uid = host.run("id", "-u", "sekisho-detector").strip()
    assert status["Uid"].split() == [uid] * 4
    kept = host.run("stat", "-c", "%U %a", f"/var/lib/sekisho-detector/{UNITS[unit]}").split()
    assert kept == ["sekisho-detector", "600"]
    host.run("systemctl", "stop", unit)
    assert (host.show(unit, "Result"), host.show(unit, "ExecMainStatus")) == ("success", "0")
    assert "Traceback" not in host.journal(unit)
