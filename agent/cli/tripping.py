"""``sekisho agent tripwire``: what this host would tell by itself while Kafka is away, and a try of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import Group, Options, echo_json, example, json_option, tell, words

if TYPE_CHECKING:
    from agent.config import Loaded
    from agent.core.stages import Sink


@click.group(cls=Group, epilog=example("agent tripwire"))
def tripwire() -> None:
    """What this host tells by itself while Kafka is away."""


@tripwire.command("test", epilog=example("agent tripwire test"))
@json_option("One JSON document: enabled, after_s, rules, stores, sinks.")
@click.pass_obj
def test(options: Options, as_json: bool) -> None:
    """Send a test alert to every sink of the tripwire, and say what it watches. Exit code 1 if nobody could be told."""
    from agent.core.clock import SECOND_NS

    loaded = options.load()
    settings = loaded.settings
    rules, stores = _watched(loaded)
    sent = _sent(loaded) if settings.tripwire.enabled else []
    after_s = settings.tripwire.after // SECOND_NS
    if as_json:
        document = {
            "enabled": settings.tripwire.enabled,
            "after_s": after_s,
            "rules": rules,
            "stores": stores,
            "sinks": sent,
        }
        echo_json(document, indent=2)
    else:
        say = words(settings.language)
        if not settings.tripwire.enabled:
            tell(say("tripwire.off"))
        else:
            tell(say("tripwire.watches", stores=say.join(stores) or "-", n=len(rules), seconds=after_s))
        for one in sent:
            key = "tripwire.sent" if one["delivered"] else "tripwire.failed"
            tell(say(key, sink=one["sink"], reason=one["error"] or ""))
        if settings.tripwire.enabled and not sent:
            tell(say("tripwire.no_sinks"))
    if not any(one["delivered"] for one in sent):
        raise SystemExit(1)


def _watched(loaded: Loaded) -> tuple[list[dict[str, Any]], list[str]]:
    from datetime import UTC, datetime

    from agent.config import read_policy
    from agent.sending.tripwire import local_rules

    policy = local_rules(read_policy(loaded.settings, datetime.now(UTC).date()))
    rules = [
        {"rule": rule.id, "window": rule.window, "threshold_octets": rule.over} for _, rule in policy.rules
    ]
    return rules, [store.id for store in policy.stores]


def _sent(loaded: Loaded) -> list[dict[str, Any]]:
    from agent import config
    from agent.cli.agent import logged_alerts
    from agent.core.clock import SystemClock
    from agent.core.errors import SinkError
    from agent.core.finding import Event, Notice, NoticeKind, Severity
    from agent.making import told_by_tripwire

    context = config.bare_context(loaded.settings)
    sinks: dict[str, Sink] = {name: one.build(context) for name, one in loaded.stages.sinks.items()}
    sinks |= logged_alerts(loaded)
    notice = Notice(
        kind=NoticeKind.EVENT,
        time_ns=SystemClock().now_ns(),
        host=loaded.settings.host,
        event=Event(name="tripwire_tested", severity=Severity.LOW),
        simulated=True,
    )
    told = []
    for name in told_by_tripwire(loaded.settings, sinks):
        error = ""
        try:
            sinks[name].write_notice(notice)
            sinks[name].flush()
        except SinkError as fault:
            error = str(fault)
        told.append({"sink": name, "delivered": not error, "error": error or None})
    for sink in sinks.values():
        sink.close()
    return told
