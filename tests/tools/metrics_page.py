"""docs/metrics.md from the table of metrics."""

from __future__ import annotations

from agent.metrics import DELAYS_S, METRICS, MOST_VALUES
from agent.metrics_server import MOST_READERS, READER_S

_HEAD = f"""# Metrics

Written by `make docs` from `agent/metrics.py`, the table that the program itself serves.

```yaml
metrics: {{listen: 127.0.0.1:9464}}
```

Off unless set: no port is opened on a host by itself. Each role (`sekisho agent`, `detect`, `archive`, `republish`) then serves
Prometheus text at `/metrics`, OpenMetrics where the reader asks for it; roles on one host need ports of their own. The page has
no login and no encryption, and holds no host name, address or name of a store: bind it to loopback, or to a network that your
monitoring alone reaches. It never holds up the role: {MOST_READERS} readers at a time, the next is answered 503, a silent one is left after
{READER_S:g} s, an address that is taken costs a line in the log (`metrics_not_served`) and nothing else. A label takes at most {MOST_VALUES}
values; what is more is summed as `other`.

Counters end in `_total` and begin at zero with each start of the program. Amounts are octets of the IP layer; `direction` is `out` or `in`, seen
from the host. `process_…` (CPU, memory, open files) stand beside them.
"""
_ASK = """## What to watch

| for | ask |
|---|---|
| rows that are lost | `sekisho_capture_dropped_octets_total`, `sekisho_spool_dropped_octets_total`, `sekisho_capture_map_overflow_octets_total`: any increase |
| traffic that no row has | `sekisho_capture_unexplained_share > 0.01` at an agent; `sekisho_detect_unexplained_agents > 0` for all of them at once ([capture.md](capture.md)) |
| an account that does not add up | `sekisho_account_residue_octets != 0` |
| an agent that cannot send | `sekisho_send_connected == 0`, or `time() - sekisho_send_last_acknowledged_timestamp_seconds > 120` while rows wait |
| a spool that fills | `sekisho_spool_disk_octets` beside `spool.most_octets` |
| no detector | `sum(sekisho_detect_leader) != 1` |
| a detector that falls behind | `sekisho_detect_lag_messages` growing, `histogram_quantile(0.99, rate(sekisho_detect_alert_delay_seconds_bucket[1h]))` |
| somebody else's messages | `sekisho_detect_dead_messages_total` by `reason` |
| an archive that stands still | `sekisho_copy_stopped == 1`, `sekisho_copy_lag_messages` growing |
"""
_TITLES = {
    ("agent",): "## The agent",
    ("detector",): "## The detector",
    ("archiver", "republisher"): "## Archiver and republisher",
}


def metrics_page() -> str:
    """The page."""
    lines = [_HEAD, _ASK]
    shown: set[str] = set()
    for roles, title in _TITLES.items():
        lines += [title, "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for metric in METRICS:
            if metric.name in shown or not set(metric.roles) <= {*roles, *_of_all(metric.roles)}:
                continue
            shown.add(metric.name)
            name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
            lines.append(f"| `{name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.meaning} |")
        lines.append("")
    bounds = ", ".join(f"{bound:g}" for bound in DELAYS_S)
    lines += [f"The histogram's upper bounds are {bounds} s.", ""]
    return "\n".join(lines)


def _of_all(roles: tuple[str, ...]) -> tuple[str, ...]:
    """All roles, of a metric that each has: it stands in the first table."""
    return roles if len(roles) > 2 else ()
