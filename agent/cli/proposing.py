"""The approval that a case closed as expected proposes: as text for a person to commit, and as a document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.approving import HeldBack
    from agent.policy.approvals import Approval
    from agent.store.cases import Action
    from agent.store.state import State
    from agent.words import Phrases


@dataclass(frozen=True, slots=True)
class Proposal:
    """An approval, and how often it would have held findings of its pair back; none where none can be narrow."""

    approval: Approval | None
    backtest: HeldBack | None

    def document(self) -> dict[str, Any] | None:
        """As JSON: the YAML, its fields, and the count."""
        if self.approval is None or self.backtest is None:
            return None
        from agent.policy.approval_text import approvals_yaml

        return {
            "yaml": approvals_yaml([self.approval]),
            "approval": self.approval.model_dump(mode="json", exclude_defaults=True),
            "would_have_held_back": asdict(self.backtest),
        }

    def text(self, say: Phrases) -> str:
        """What a person reads below the line that says that the case is closed."""
        if self.approval is None or self.backtest is None:
            return say("approvals.no_proposal")
        from agent.policy.approval_text import approvals_yaml

        told = self.backtest
        head = say("approvals.proposal", id=self.approval.id)
        count = say(
            "approvals.backtest",
            held=told.held,
            findings=told.findings,
            days=told.days,
            over=told.over_cap,
        )
        return "\n".join([head, approvals_yaml([self.approval]).rstrip("\n"), count])


def narrowest(state: State, action: Action, taken: Collection[str] = ()) -> Proposal:
    """Of a case that was just closed. ``taken``: ids that the policy has already."""
    from agent import approving

    found = approving.narrowest(state.cases.get_case(action.case_id), action, state, taken)
    return Proposal(*found) if found is not None else Proposal(None, None)
