"""Hosts that others have on record: nodes of a Kubernetes cluster, guests of libvirt. Reads only."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.core.errors import ConfigError, Fault

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and the certificate of the API (Kubernetes, "Accessing the API from a Pod")."""
MOST_OCTETS: Final = 64 * 2**20
_PATIENCE_S: Final = 20
_PAGE: Final = 500


def nodes(environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> list[str]:
    """Names of the cluster's nodes, asked of the API from inside a pod whose account may list nodes.

    Raises :class:`ConfigError` outside of a cluster and where the API refuses. Blocks, 20 s at most for each page.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        advice = "run it in a pod, or pipe: kubectl get nodes -o json | sekisho assets hosts --kubernetes -"
        raise ConfigError(
            Fault("Kubernetes", 0, "this is no pod: KUBERNETES_SERVICE_HOST is not set", advice)
        )
    base = f"https://{f'[{host}]' if ':' in host else host}:{port}/api/v1/nodes?limit={_PAGE}"
    try:
        token = (account / "token").read_text().strip()
        trusted = ssl.create_default_context(cafile=account / "ca.crt")
    except OSError as error:
        advice = "give the pod a service account that may list nodes"
        raise ConfigError(Fault(str(account), 0, f"cannot be read: {error.strerror}", advice)) from None
    names: list[str] = []
    following = ""
    while True:
        page = _asked(base + (f"&continue={following}" if following else ""), token, trusted)
        names += node_names(page, "Kubernetes")
        following = str((page.get("metadata") or {}).get("continue") or "")
        if not following:
            return sorted(set(names))


def _asked(address: str, token: str, trusted: ssl.SSLContext) -> dict[str, Any]:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  https alone
    no_proxy = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    try:
        with no_proxy.open(request, timeout=_PATIENCE_S) as answer:
            return parsed(answer.read(MOST_OCTETS), "Kubernetes")
    except urllib.error.HTTPError as error:
        advice = (
            "let its account list nodes (a ClusterRole with nodes: list)" if error.code in (401, 403) else ""
        )
        raise ConfigError(Fault("Kubernetes", 0, f"the API answered {error.code}", advice)) from None
    except (OSError, urllib.error.URLError) as error:
        raise ConfigError(Fault("Kubernetes", 0, f"the API cannot be reached: {error}", "")) from None


def parsed(text: bytes | str, name: str) -> dict[str, Any]:
    """A JSON document of keys and values. Raises :class:`ConfigError`."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        advice = "make it with: kubectl get nodes -o json"
        raise ConfigError(Fault(name, 0, "is no JSON list of nodes", advice))
    return found


def node_names(document: Mapping[str, Any], name: str) -> list[str]:
    """Names of the nodes of a Kubernetes ``NodeList``, sorted. Raises :class:`ConfigError` for anything else."""
    items = document.get("items")
    kinds = (
        {item.get("kind", "Node") for item in items if isinstance(item, dict)}
        if isinstance(items, list)
        else {""}
    )
    if not isinstance(items, list) or kinds - {"Node"}:
        raise ConfigError(Fault(name, 0, "holds no list of nodes", "make it with: kubectl get nodes -o json"))
    found = {str((item.get("metadata") or {}).get("name") or "") for item in items if isinstance(item, dict)}
    return sorted(found - {""})


def guests() -> list[str]:
    """Names of libvirt's guests on this host, running or not, as ``virsh`` tells over a read-only connection.

    Raises :class:`ConfigError` where it is not installed or does not answer.
    """
    try:
        done = subprocess.run(
            ["virsh", "--readonly", "list", "--all", "--name"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise ConfigError(Fault("libvirt", 0, "virsh is not installed", "run it on the hypervisor")) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(Fault("libvirt", 0, f"virsh does not answer: {error}", "")) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["virsh failed"]
        raise ConfigError(Fault("libvirt", 0, lines[-1], "check that libvirtd runs and that you may ask it"))
    names = done.stdout.decode(errors="replace").splitlines()
    return sorted({name.strip() for name in names} - {""})
