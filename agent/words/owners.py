"""Who holds how much of whom, in words: a sentence for each stake, with its source, mark and date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.core.finding import OwnerStep
from agent.words.phrases import Phrases


def stakes(chain: Sequence[OwnerStep], say: Phrases) -> list[str]:
    """A sentence for each stake above a network's holder, nearest first."""
    return [_sentence(step, say) for step in chain]


def _sentence(step: OwnerStep, say: Phrases) -> str:
    return say(
        "stake.line",
        by=step.by_name,
        country=say.country(step.country) if step.country else say("unknown"),
        how=_how(step, say),
        of=step.of_name,
        flags=say.join(list(_flags(step, say))),
        source=step.source,
        mark=step.mark,
        meaning=say.named("mark", step.mark),
        checked=step.checked,
    )


def _how(step: OwnerStep, say: Phrases) -> str:
    parts = [say("stake.capital", share=step.share)] if step.share else []
    if step.votes:
        parts.append(say("stake.votes", votes=step.votes))
    if not parts:
        return say("stake.unknown")
    return parts[0] if len(parts) == 1 else say("stake.also", one=parts[0], other=parts[1])


def _flags(step: OwnerStep, say: Phrases) -> Iterator[str]:
    if step.until:
        yield say("stake.until", day=step.until)
    elif step.disputed:
        yield say("stake.disputed")
    elif step.decides:
        yield say("stake.decides")
    else:
        yield say("stake.counts" if step.share else "stake.no_share")
    if step.since and not step.until:
        yield say("stake.since", day=step.since)
    if step.stale:
        yield say("stake.stale")
    if step.state_control:
        yield say("stake.state_control")
