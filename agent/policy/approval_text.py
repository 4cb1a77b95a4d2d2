"""Approvals as YAML for a person to read, complete and commit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from agent.policy.approvals import Approval


def approvals_yaml(approvals: Sequence[Approval]) -> str:
    """A whole file of them; texts that come from outside stand in quotes, so that none can say more than itself."""
    return "approvals:\n" + "".join(f"{line}\n" for approval in approvals for line in _lines(approval))


def _lines(approval: Approval) -> Iterator[str]:
    yield f"  - id: {approval.id}"
    yield f"    stores: [{', '.join(approval.stores)}]"
    yield f"    destination: {{entity: {_quoted(approval.destination.entity or '')}}}"
    if approval.processes:
        yield f"    processes: [{', '.join(map(_quoted, approval.processes))}]"
    else:
        yield "    # processes: any; which one sent is not known, or there are too many"
    yield f"    initiator: {approval.initiator}"
    yield f"    basis: {_quoted(approval.basis)}"
    yield f"    approver: {_quoted(approval.approver)}"
    if approval.approved_on is not None:
        yield f"    approved_on: {approval.approved_on}"
    yield f"    cap: {approval.cap}"
    yield f"    window: {approval.window}"
    yield f"    valid_from: {approval.valid_from}"
    yield f"    valid_to: {approval.valid_to}"
    if approval.provisional:
        yield "    provisional: true"
    if approval.note:
        yield f"    note: {_quoted(approval.note)}"


def _quoted(text: str) -> str:
    """As JSON, which YAML reads: control and other characters beyond ASCII that are not letters are escaped."""
    if text.isascii() or not text.isprintable():
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
