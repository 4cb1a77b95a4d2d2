"""Hosts that others have on record: Kubernetes' nodes and libvirt's guests, as entries of the register."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent import inventory
from agent.core.errors import ConfigError
from agent.policy.load import load
from tests.tools.certificates import Authority
from tests.tools.program import sekisho


def node_list(*names: str, following: str = "") -> dict[str, Any]:
    items = [{"kind": "Node", "metadata": {"name": name}} for name in names]
    return {"kind": "NodeList", "metadata": {"continue": following}, "items": items}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path, list[str]]]:
    """An API on loopback with a certificate, of two pages: (environment, account, what was asked)."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("sesame\n")
    (account / "ca.crt").write_bytes(authority.ca.read_bytes())
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            may = self.headers["Authorization"] == "Bearer sesame"
            page = (
                node_list("node-2") if "continue=more" in self.path else node_list("node-1", following="more")
            )
            self.send_response(200 if may else 403)
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = str(server.server_address[1])
    try:
        yield {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}, account, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nodes_are_asked_of_the_api(cluster: tuple[dict[str, str], Path, list[str]]) -> None:
    """Every page of the list, with the pod's own token, over TLS that its certificate vouches for; a refusal says
    which right is missing.
    """
    environ, account, asked = cluster
    assert inventory.nodes(environ, account) == ["node-1", "node-2"]
    assert asked == ["/api/v1/nodes?limit=500", "/api/v1/nodes?limit=500&continue=more"]
    (account / "token").write_text("wrong")
    with pytest.raises(ConfigError, match=r"answered 403 \(let its account list nodes"):
        inventory.nodes(environ, account)
    (account / "ca.crt").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        inventory.nodes(environ, account)
    with pytest.raises(ConfigError, match="this is no pod"):
        inventory.nodes({}, account)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"items": 1}', '{"items": [{"kind": "Pod"}]}', "nodes"])
def test_what_is_no_list_of_nodes_is_refused(text: str) -> None:
    """Another document is a fault that says how the right one is made."""
    with pytest.raises(ConfigError, match="kubectl get nodes -o json"):
        inventory.node_names(inventory.parsed(text, "nodes.json"), "nodes.json")


def test_hosts_that_are_not_expected_yet_are_proposed(tmp_path: Path) -> None:
    """Nodes and guests that the policy does not expect, as YAML that it takes as it is; JSON says of each whether."""
    (tmp_path / "bin").mkdir()
    virsh = tmp_path / "bin/virsh"
    virsh.write_text('#!/bin/sh\n[ "$*" = "--readonly list --all --name" ] && printf "vm-1\\n\\ndb 2\\n"\n')
    virsh.chmod(0o755)
    (tmp_path / "nodes.json").write_text(json.dumps(node_list("node-1", "NODE-2")))
    (tmp_path / "policy.yaml").write_text("expected_hosts:\n  - {host: node-2}\n")
    words = ("--set", "policy=policy.yaml", "assets", "hosts", "--kubernetes", "nodes.json", "--libvirt")
    path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    outcome = sekisho(*words, home=tmp_path, env=path)
    assert outcome.code == 0, outcome.text
    (tmp_path / "hosts.yaml").write_text(outcome.out)
    hosts = load([tmp_path / "hosts.yaml"], today=date(2026, 11, 21)).expected_hosts
    assert [(h.host, h.source) for h in hosts] == [
        ("db 2", "libvirt"),
        ("node-1", "kubernetes"),
        ("vm-1", "libvirt"),
    ]
    told = json.loads(sekisho(*words, "--json", home=tmp_path, env=path).out)
    assert [row["host"] for row in told["hosts"] if row["expected"]] == ["NODE-2"]


def test_virsh_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No virsh, or one that may not ask, is a fault in its own words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="virsh is not installed"):
        inventory.guests()
    (tmp_path / "virsh").write_text("#!/bin/sh\necho 'error: no connection' >&2\nexit 1\n")
    (tmp_path / "virsh").chmod(0o755)
    with pytest.raises(ConfigError, match="error: no connection"):
        inventory.guests()
