"""What deploy/ holds for detector, archiver and containers: it names what the code knows, and gives away no more than it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

import agent
from agent import config
from agent.cli import COMMANDS, cli
from agent.store.postgres import _checked
from tests.tools.brokers import VERSION as KAFKA_VERSION
from tests.tools.places import ROOT

SYSTEMD, COMPOSE, CONTAINER = (ROOT / "deploy" / name for name in ("systemd", "compose", "container"))
PAGE = (ROOT / "docs" / "deploy.md").read_text()
COMPOSED: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
OURS = [name for name in SERVICES if name not in ("kafka", "postgres")]
UNITS = {"detect": "detector", "archive": "archiver", "republish": "republisher"}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (apt-get install systemd)"
)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False
    )


# units


@needs_systemd
@pytest.mark.parametrize("role", UNITS)
def test_systemd_takes_every_line_of_a_unit(role: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say."""
    unit = tmp_path / f"sekisho-{role}.service"
    unit.write_text((SYSTEMD / unit.name).read_text().replace("/opt/sekisho/bin/sekisho", sys.executable))
    done = analyze("verify", unit)
    ours = [line for line in done.stderr.splitlines() if unit.name in line or str(tmp_path) in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("role", UNITS)
def test_a_units_exposure_is_what_the_page_says(role: str, tmp_path: Path) -> None:
    """systemd's own figure is not above the one of the page; a unit that gives away a line of it is noticed."""
    claimed = float(re.search(rf"the {UNITS[role]} \*\*([0-9.]+)\*\*", PAGE)[1])  # type: ignore[index]
    unit = SYSTEMD / f"sekisho-{role}.service"
    limit = f"--threshold={round(claimed * 10)}"
    assert analyze("security", "--offline=yes", limit, unit).returncode == 0
    weaker = tmp_path / unit.name
    weaker.write_text(unit.read_text().replace("CapabilityBoundingSet=\n", ""))
    assert analyze("security", "--offline=yes", limit, weaker).returncode != 0


@pytest.mark.parametrize("role", UNITS)
def test_a_unit_runs_its_role_without_a_right(role: str) -> None:
    """Each unit starts the command it is named after, as a user that sysusers makes, with no capability."""
    text = (SYSTEMD / f"sekisho-{role}.service").read_text()
    found = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    assert found["ExecStart"].split()[-1] == role
    assert any(role in group for group in COMMANDS.values())
    assert (found["CapabilityBoundingSet"], "AmbientCapabilities" in found) == ("", False)
    assert f"u {found['User']} " in (SYSTEMD / "sekisho-detector.sysusers.conf").read_text()
    folder = Path(found["ExecStart"].split()[2]).parent
    assert (
        f"d {folder} 0750 root {found['Group']}" in (SYSTEMD / "sekisho-detector.tmpfiles.conf").read_text()
    )
    assert found["Environment"] == f"SEKISHO_STATE_DIR=/var/lib/{found['StateDirectory']}"


# compose


@pytest.mark.parametrize("name", OURS)
def test_a_service_names_settings_and_commands_that_there_are(name: str, tmp_path: Path) -> None:
    """Its settings load with its environment, and its command is one of the program."""
    service = SERVICES[name]
    environment = dict(service["environment"])
    inside = environment.pop("SEKISHO_CONFIG")
    assert inside.startswith("/etc/sekisho/")
    assert "./settings:/etc/sekisho:ro" in service["volumes"]
    file = COMPOSE / "settings" / Path(inside).name
    loaded = config.load(file, environ=environment)
    assert loaded.settings.kafka is not None
    assert loaded.settings.policy == (COMPOSE / "settings" / "policy.yaml",)
    if loaded.settings.detect.database is not None:
        assert _checked(loaded.settings.detect.database).query["host"] == "/var/run/postgresql"
        assert "postgres-socket:/var/run/postgresql" in [
            *service["volumes"],
            *([] if name not in ("topics", "databases") else ["postgres-socket:/var/run/postgresql"]),
        ]
    command = service.get("command", ["cases", "list"])
    done = CliRunner().invoke(cli, [*command, "--help"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(cli, ["-c", str(file), "policy", "check"]).exit_code == 0


def test_the_file_is_one_of_the_compose_specification() -> None:
    """The specification's own JSON schema has nothing against it, and would notice a name that is none."""
    schema = json.loads((ROOT / "tests" / "data" / "compose" / "compose-spec.schema.json").read_text())
    check = Draft202012Validator(schema)
    assert [f"{e.json_path}: {e.message}" for e in check.iter_errors(COMPOSED)] == []
    wrong = {**COMPOSED, "services": {**SERVICES, "agent": {**SERVICES["agent"], "cap_adds": ["BPF"]}}}
    assert [e.json_path for e in check.iter_errors(wrong)] == ["$.services.agent"]


def test_ports_and_listeners_agree() -> None:
    """Whoever is told an address finds a listener there, and every published port is of loopback."""
    kafka = SERVICES["kafka"]["environment"]
    advertised = dict(part.split("://") for part in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listened = dict(part.split("://") for part in kafka["KAFKA_LISTENERS"].split(","))
    assert listened.keys() == {*advertised, kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    for name, address in advertised.items():
        assert address.rpartition(":")[2] == listened[name].rpartition(":")[2]
    assert SERVICES["agent"]["environment"]["SEKISHO_KAFKA__SERVERS"] == advertised["HOST"]
    assert {SERVICES[n]["environment"]["SEKISHO_KAFKA__SERVERS"] for n in OURS if n != "agent"} == {
        advertised["INSIDE"]
    }
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)
    metrics = SERVICES["detector"]["environment"]["SEKISHO_METRICS__LISTEN"].rpartition(":")[2]
    assert all(port.endswith((f":{metrics}", ":19092")) for port in published)


def test_everything_that_is_named_is_there() -> None:
    """Networks, volumes and services that are depended on exist; the images are those that the tests know."""
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= SERVICES.keys(), name
        assert set(service.get("networks", [])) <= COMPOSED["networks"].keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (
                source in COMPOSED["volumes"] or (COMPOSE / source).exists() or source.startswith("/sys/fs/")
            )
    assert SERVICES["kafka"]["image"] == f"docker.io/apache/kafka:{KAFKA_VERSION}"
    roles = {"detector": "detect", "archiver": "archive", "republisher": "republish", "agent": "agent"}
    assert {name: SERVICES[name]["command"] for name in roles} == {n: [c] for n, c in roles.items()}


@pytest.mark.parametrize("name", OURS)
def test_only_the_agent_has_rights(name: str) -> None:
    """No capability, no write to the image, no new privilege; the agent alone is root, and the page names what it gets."""
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    if name != "agent":
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"user", "cap_add", "privileged", "network_mode", "pid"} & service.keys()
    for right in service.get("cap_add", []):
        assert right in PAGE


def test_the_agent_may_write_its_state_and_load_its_programs() -> None:
    """Root without CAP_DAC_OVERRIDE writes nowhere in the image, whose state folder is another user's: it has a volume of
    its own. The filter of system calls of some engines refuses bpf() to whoever is not CAP_SYS_ADMIN: it is off.
    """
    agent_ = SERVICES["agent"]
    text = (CONTAINER / "Containerfile").read_text()
    image_s = re.search(r"SEKISHO_STATE_DIR=(\S+)", text)[1]  # type: ignore[index]
    own = agent_["environment"]["SEKISHO_STATE_DIR"]
    assert own not in text
    assert own != image_s
    assert f"agent:{own}" in agent_["volumes"]
    assert "DAC_OVERRIDE" not in agent_["cap_add"]
    assert agent_["security_opt"] == ["no-new-privileges:true", "seccomp=unconfined"]


# container


def test_the_image_can_fetch_databases() -> None:
    """`sekisho db install` needs pip, and compose's service of databases is this image."""
    text = (CONTAINER / "Containerfile").read_text()
    assert "uninstall" not in text
    assert SERVICES["databases"]["command"] == ["db", "install", "--if-missing"]
    assert SERVICES["databases"]["networks"] == ["outside"]


def test_the_image_is_locked_and_without_rights() -> None:
    """Every package comes with a hash, the program runs as a user of its own, and what is copied exists."""
    text = (CONTAINER / "Containerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["10001:10001"]
    installs = re.findall(r"pip install .*", text)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps /wheels" in line for line in installs)
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for source in line.split()[:-1]:
            # Where the built wheel is tested its packages do not lie beside the tests.
            assert (ROOT / source).exists() or (Path(agent.__file__).parents[1] / source).exists(), source
    wanted = re.search(r"locked.py requirements-dev.txt (.*) >", text)
    assert wanted
    done = subprocess.run(
        [sys.executable, CONTAINER / "locked.py", ROOT / "requirements-dev.txt", *wanted[1].split()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count("==") == len(wanted[1].split())
    assert done.stdout.count("--hash=sha256:") >= 2
