"""How an approved transfer stands to a case, in one line: who said so, until when, how much, and how much was used."""

from __future__ import annotations

from agent.core.finding import ApprovalFact
from agent.words import units
from agent.words.phrases import Phrases


def approval_line(fact: ApprovalFact, say: Phrases) -> str:
    """``Over the cap of approved transfer ID: approved by NAME until DATE, cap X in 24 h, used Y.`` Texts must have been
    made harmless."""
    basis = ", ".join(text for text in (fact.basis, fact.ticket) if text)
    terms = {
        "approver": say("approval.provisional", approver=fact.approver)
        if fact.provisional
        else fact.approver,
        "ends": fact.valid_to,
        "basis": say("approval.basis", basis=basis) if basis else "",
        "cap": units.size(fact.cap_octets),
        "window": say.named("window", fact.window),
    }
    if fact.used_octets is None:
        text = say("approval.terms_unused", **terms)
    else:
        text = say("approval.terms", **terms, used=units.size(fact.used_octets))
    return say(f"approval.{fact.standing}", id=fact.id, terms=text, begins=fact.valid_from)
