"""``sekisho assets``: propose entries for the registers of stores and hosts, for a person to complete."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.common import Group, Options, echo, echo_json, example, json_option, language_of, words

if TYPE_CHECKING:
    from agent.policy.model import Policy
    from agent.policy.servers import Listening


@click.group(cls=Group, epilog=example("assets"))
def command() -> None:
    """Propose stores and hosts for the registers."""


@command.command(epilog=example("assets suggest"))
@click.option("--all", "everything", is_flag=True, help="Also what the policy has as a store already.")
@json_option("One JSON document: the YAML, and what listens.")
@click.pass_obj
def suggest(options: Options, everything: bool, as_json: bool) -> None:
    """Print stores, as YAML to paste, for the databases and file servers that listen on this host.

    They are told by executable, unit and process, on any port, in containers too. Nothing is sent to them or to any
    other host. TODO stands where a person must say something: what a store holds, whom to ring.
    """
    from dataclasses import asdict

    from agent.listening import listening
    from agent.policy.starter import suggestion

    loaded = options.load()
    policy, host = _policy(options), loaded.settings.host
    found = listening(containers=True)
    known = (
        {} if everything else {fact: store for fact in found if (store := _registered(policy, fact, host))}
    )
    left = [fact for fact in found if fact not in known]
    text = suggestion(left, host, [store.id for store in policy.stores])
    if as_json:
        rows = [{**asdict(fact), "store": known.get(fact, "")} for fact in found]
        echo_json({"host": host, "yaml": text, "listening": rows}, indent=2)
        return
    echo(text.rstrip("\n"))
    say = words(language_of(options))
    for fact, store in known.items():
        if fact.guess:
            echo(say("assets.known", port=fact.port, guess=fact.guess, store=store), err=True)
    n = sum(bool(fact.guess) for fact in left)
    echo(say("assets.next", n=n) if n else say("assets.nothing"), err=True)


def _policy(options: Options) -> Policy:
    from datetime import UTC, datetime

    from agent.config import read_policy

    return read_policy(options.load().settings, datetime.now(UTC).date())


def _registered(policy: Policy, fact: Listening, host: str) -> str:
    """The store of this host that the policy has for what listens there; empty if there is none."""
    from fnmatch import fnmatchcase

    from agent.policy.model import THIS_HOST

    near = [*policy.index.on_host(host), *policy.index.on_host(THIS_HOST)]
    if fact.pod:
        near += policy.index.kept_under(policy.index.places.at_pod(fact.pod))
    for store in near:
        known = store.recognise
        if (
            fact.port in known.ports
            or fact.process in known.processes
            or any(fnmatchcase(fact.executable, pattern) for pattern in known.executables)
            or any(fnmatchcase(fact.unit, pattern) for pattern in known.units)
            or any(fact.container.startswith(begin) for begin in known.containers)
        ):
            return store.id
    return ""


@command.command(epilog=example("assets hosts"))
@click.option(
    "--kubernetes",
    "cluster",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Nodes of the cluster, of its API when in a pod; or FILE of `kubectl get nodes -o json`, - for standard input.",
)
@click.option("--libvirt", is_flag=True, help="Guests of this hypervisor, by virsh.")
@json_option("One JSON document: the YAML, and every host with where it is known from.")
@click.pass_obj
def hosts(options: Options, cluster: str | None, libvirt: bool, as_json: bool) -> None:
    """Print hosts that others have on record and the policy does not expect, as YAML to paste.

    For one without an agent write why: `no_agent`.
    """
    from agent import inventory
    from agent.policy.starter import expected

    if cluster is None and not libvirt:
        raise click.UsageError("Say where to look: --kubernetes, --libvirt, or both.")
    found: dict[str, str] = {}
    if cluster is not None:
        found |= dict.fromkeys(_nodes(cluster) if cluster else inventory.nodes(), "kubernetes")
    if libvirt:
        found |= dict.fromkeys(inventory.guests(), "libvirt")
    known = {h.host.lower() for h in _policy(options).expected_hosts}
    new = {host: source for host, source in sorted(found.items()) if host.lower() not in known}
    if as_json:
        rows = [
            {"host": host, "source": source, "expected": host not in new}
            for host, source in sorted(found.items())
        ]
        echo_json({"yaml": expected(new), "hosts": rows}, indent=2)
        return
    echo(expected(new).rstrip("\n"))
    told = words(language_of(options))("assets.hosts", n=len(new), known=len(found) - len(new))
    echo(told, err=True)


def _nodes(file: str) -> Sequence[str]:
    from agent import inventory
    from agent.core.errors import ConfigError, Fault

    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(Fault(file, 0, f"cannot be read: {error.strerror}", "check the path")) from None
    return inventory.node_names(inventory.parsed(text, file), file)
