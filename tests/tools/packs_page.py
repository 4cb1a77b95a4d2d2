"""docs/packs.md, written from the packs themselves."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.load import shipped_packs
from agent.policy.regimes import Pack, PackState
from agent.words import regime_phrases, regimes
from agent.words.phrases import Phrases

INTRODUCTION = """\
# Packs: what each regime says, as sekisho has it

Written by `make docs` from `agent/policy/packs/`; `sekisho policy explain PACK` prints the same, in English or Japanese,
with your own stores beside it. Not legal advice.

A pack holds one regime: its facts, thresholds, windows, destinations, exemptions, clocks of reports, and rules. Every fact
carries the section that gives it and a mark for how it was verified:

| mark | means |
|---|---|
| V | the text of the rule was read, or a consolidated copy of it |
| V2 | a secondary source that cites it |
| N | a news or other public text |
| S | a published data set |
| K | general knowledge, not verified; told as such wherever it is told |

All packs but `operator` are asleep until a person attests that a legal entity is bound
([policy.md](policy.md#attestations-waking-a-pack)). Packs of kind *report* and *inventory* hold no rule and never alert: a
report pack lends a case its clocks, which a named person starts. A regime that is not in force finds at `low` at most.
Thresholds count people or devices, which traffic does not show: no rule compares octets with them.

## A pack of your own

Put a YAML file with `pack:` at its top into a folder that the setting `policy` names. `sekisho policy check` reads it
with everything else; `sekisho policy schema --pack` gives its JSON Schema. To correct a shipped pack before a new version
of sekisho comes, write a pack with the same id and say whose place it takes: `replaces: "2026.11.1"`.

```yaml
pack: our-contracts
version: "1"
title: {en: What our contracts say, ja: 契約上の定め}
state: in_force
kind: detect
needs_attestation: false
sources:
  - {cite: contract 2026-17, read: 2026-10-01, mark: V}
rules:
  - id: lab-results
    title: Lab results in bulk to a receiver never seen before
    categories: [personal_health]
    over: 20 MB
    any_of: {first_seen: true}
    severity: medium
    tests:
      - name: 50 MB to a receiver never seen before
        given:
          - {sends: 50 MB, lasts: 10m, to: {asn: 64500}}
        expect: medium
```

Refused, with file and line: a pack without sources; two packs with one id; a number without the section that gives it;
dates that lie ahead; a fact with mark K in a regime in force that does not say `unverified: shown`; rules in a report
pack; a rule over `low` in a regime that is not in force; an exemption without approver, reason, store, destination, cap
or end.
"""


def packs_page() -> str:
    """docs/packs.md."""
    say = regime_phrases("en")
    packs = sorted((pack for _, pack in shipped_packs()), key=lambda p: (p.pack != "operator", p.pack))
    lines = [
        INTRODUCTION,
        "## All packs",
        "",
        "| pack | regime | state | kind | from |",
        "|---|---|---|---|---|",
    ]
    for pack in packs:
        begin = pack.valid_from or ""
        if pack.state is PackState.HISTORIC:
            begin = f"until {pack.valid_to}"
        state = say(f"state.{pack.state}")
        lines.append(f"| [{pack.pack}](#{pack.pack}) | {pack.title.en} | {state} | {pack.kind} | {begin} |")
    for pack in packs:
        lines += ["", f"## {pack.pack}", "", *_pack(pack, say)]
    return "\n".join(lines) + "\n"


def _pack(pack: Pack, say: Phrases) -> Iterator[str]:
    yield f"{pack.title.en} (in Japanese: {pack.title.ja}), version {pack.version}"
    yield ""
    yield from (f"- {line}" for line in regimes.head(pack, say))
    for name, lines in regimes.sections(pack, say):
        yield ""
        yield f"**{name[0].upper()}{name[1:]}**"
        yield ""
        yield from (f"  - {line.strip()}" if line.startswith("  ") else f"- {line}" for line in lines)
    yield ""
    yield f"**{say('pack.rules').capitalize()}**"
    yield ""
    yield from (f"- `{rule.id}`: {rule.title} ({rule.severity.name.lower()})" for rule in pack.rules)
    if not pack.rules:
        yield f"- {say('pack.no_rule')}"
