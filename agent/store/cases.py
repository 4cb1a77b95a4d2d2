"""Cases for people: finding them, and what people do about them.

The detector writes the content of a case; people's actions stand beside it in a table that is only ever added to, and
are applied when a case is read. So both may write at any time and neither overwrites the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from agent.core.clock import Clock
from agent.core.errors import StateError
from agent.core.finding import Case, CaseState, Finding
from agent.store import schema
from agent.store.database import Database
from agent.store.kept import Action as Action
from agent.store.kept import ActionKind as ActionKind
from agent.store.kept import Verdict as Verdict


class Cases:
    """Questions and actions. Each is one short transaction, and works beside a running program."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def list_cases(
        self,
        states: Collection[CaseState] = (),
        store: str | None = None,
        since_ns: int | None = None,
        limit: int | None = None,
    ) -> list[Case]:
        """Cases as people see them, last updated first; no ``states`` means all, ``since_ns`` is of the last update."""
        table = schema.cases.c
        question = sa.select(table.id, table.state).order_by(table.updated_ns.desc(), table.id.desc())
        if store is not None:
            question = question.where(table.store == store)
        if since_ns is not None:
            question = question.where(table.updated_ns >= since_ns)
        with self._database.read() as connection:
            actions = _by_case(_actions(connection))
            wanted = [
                id_
                for id_, state in connection.execute(question)
                if not states or shown_state(CaseState(state), actions.get(id_, ())) in states
            ][:limit]
            bodies = [_body(connection, id_) for id_ in wanted]
        return [
            shown(Case.model_validate_json(b), actions.get(i, ()))
            for i, b in zip(wanted, bodies, strict=True)
        ]

    def get_case(self, id_or_prefix: str) -> Case:
        """One case by its id or an unambiguous beginning of it. Raises :class:`StateError` for none or several."""
        with self._database.read() as connection:
            id_ = _find(connection, id_or_prefix)
            return _shown_case(connection, id_)

    def acknowledge(self, id_or_prefix: str, who: str, note: str = "") -> Action:
        """Say that a person has it. Raises :class:`StateError` for an unknown or a closed case."""
        return self._act(id_or_prefix, ActionKind.ACK, who, note)

    def assign(self, id_or_prefix: str, who: str, assignee: str, note: str = "") -> Action:
        """Say who is to have it. Raises :class:`StateError` as :meth:`acknowledge`, and without an assignee's name."""
        if not assignee.strip():
            raise StateError("an assignment needs the name of the person who is to have the case")
        return self._act(id_or_prefix, ActionKind.ASSIGN, who, note, assignee)

    def comment(self, id_or_prefix: str, who: str, note: str) -> Action:
        """Put something on record, of a closed case too. Raises :class:`StateError` for an unknown one, or no text."""
        if not note.strip():
            raise StateError("a comment needs a text")
        return self._act(id_or_prefix, ActionKind.COMMENT, who, note)

    def close(self, id_or_prefix: str, who: str, note: str, verdict: Verdict) -> Action:
        """Say that it is done with. Raises :class:`StateError` for an unknown or a closed case."""
        return self._act(id_or_prefix, ActionKind.CLOSE, who, note, verdict.value)

    def reopen(self, id_or_prefix: str, who: str, note: str) -> Action:
        """Say that it is not done with after all. Raises :class:`StateError` for one that no person closed, and while
        another case of the same store and destination is open."""
        return self._act(id_or_prefix, ActionKind.REOPEN, who, note)

    def actions_of(self, case_id: str) -> list[Action]:
        """What people did about a case, first to last."""
        with self._database.read() as connection:
            return _actions(connection, schema.case_actions.c.case_id == case_id)

    def actions_after(self, number: int) -> list[Action]:
        """Actions with an id above ``number``, first to last: how the running program hears of them."""
        with self._database.read() as connection:
            return _actions(connection, schema.case_actions.c.id > number)

    def findings_of(
        self, store: str | None = None, since_ns: int | None = None, rules: Collection[str] | None = None
    ) -> list[Finding]:
        """Findings, last updated first; of these rules by id, where any are given."""
        table = schema.findings.c
        question = sa.select(table.body).order_by(table.updated_ns.desc(), table.id)
        if store is not None:
            question = question.where(table.store == store)
        if since_ns is not None:
            question = question.where(table.updated_ns >= since_ns)
        if rules is not None:
            question = question.where(table.rule.in_(sorted(rules)))
        with self._database.read() as connection:
            return [Finding.model_validate_json(body) for body in connection.execute(question).scalars()]

    def _act(self, id_or_prefix: str, kind: ActionKind, who: str, note: str, value: str = "") -> Action:
        if not who.strip():
            raise StateError("an action needs the name of the person who takes it")
        row: dict[str, Any] = {
            "kind": kind.value,
            "who": who,
            "note": note,
            "verdict": value,
            "time_ns": self._clock.now_ns(),
        }
        with self._database.write() as connection:
            id_ = _find(connection, id_or_prefix)
            _refuse(connection, _shown_case(connection, id_), kind)
            row["case_id"] = id_
            number = connection.execute(schema.case_actions.insert(), row).inserted_primary_key
        assert number is not None
        return _action(number[0], id_, kind, who, note, value, row["time_ns"])


def _refuse(connection: sa.Connection, case: Case, kind: ActionKind) -> None:
    """Raise :class:`StateError` for what cannot be done with a case as it stands."""
    if kind is ActionKind.COMMENT:
        return
    is_closed = case.state is CaseState.CLOSED
    if kind is not ActionKind.REOPEN:
        if is_closed:
            raise StateError(f"case {case.id} was closed by {case.closed_by or 'the program'} already")
        return
    if not is_closed:
        raise StateError(f"case {case.id} is not closed, so it needs no opening again")
    if not case.closed_by:
        raise StateError(
            f"case {case.id} was closed by the program, since its severity is below medium; the next finding opens another"
        )
    if other := _open_beside(connection, case):
        raise StateError(f"case {other} of the same store and destination is open: go on there")


def _open_beside(connection: sa.Connection, case: Case) -> str:
    """Another case of the same key that is not closed; empty if there is none."""
    of = schema.cases.c
    same = (of.tenant == case.tenant, of.store == case.store.id, of.entity == case.destination.entity)
    question = sa.select(of.id, of.state).where(*same, of.id != case.id).order_by(of.id)
    for id_, state in connection.execute(question):
        actions = _actions(connection, schema.case_actions.c.case_id == id_)
        if shown_state(CaseState(state), actions) is not CaseState.CLOSED:
            return str(id_)
    return ""


def shown_state(content: CaseState, actions: Sequence[Action]) -> CaseState:
    """The state people see: the last closing or reopening wins, an acknowledgement only over ``open``."""
    is_acknowledged = is_closed = False
    for action in actions:
        if action.kind is ActionKind.ACK:
            is_acknowledged = True
        elif action.kind is ActionKind.CLOSE:
            is_closed = True
        elif action.kind is ActionKind.REOPEN:
            is_acknowledged = is_closed = False
    if is_closed or content is CaseState.CLOSED:
        return CaseState.CLOSED
    return CaseState.ACKNOWLEDGED if is_acknowledged else content


def shown(case: Case, actions: Sequence[Action]) -> Case:
    """The case with people's actions applied; applying what the content has heard of already changes nothing."""
    if not actions:
        return case
    update: dict[str, Any] = {"state": shown_state(case.state, actions)}
    for action in actions:
        if action.kind is ActionKind.ACK:
            update["acknowledged_by"] = action.who
        elif action.kind is ActionKind.ASSIGN:
            update["assigned_to"] = action.assignee
        elif action.kind is ActionKind.CLOSE:
            update |= {"closed_by": action.who, "closing_note": action.note}
        elif action.kind is ActionKind.REOPEN:
            update |= {"acknowledged_by": "", "closed_by": "", "closing_note": ""}
    return case.model_copy(update=update)


def put_findings(connection: sa.Connection, findings: Iterable[Finding], now_ns: int) -> None:
    """Write findings whose revision changed; ``now_ns`` is the time of the commit."""
    rows = [
        {
            "id": f.id,
            "revision": f.revision,
            "tenant": f.tenant,
            "store": f.store,
            "entity": f.entity,
            "rule": f.rule,
            "state": f.state.value,
            "severity": int(f.severity),
            "opened_ns": f.crossed_ns,
            "updated_ns": now_ns,
            "body": f.model_dump_json(),
        }
        for f in findings
    ]
    schema.put(connection, schema.findings, rows)


def put_cases(connection: sa.Connection, cases: Iterable[Case]) -> None:
    """Write cases whose revision changed."""
    rows = [
        {
            "id": c.id,
            "revision": c.revision,
            "tenant": c.tenant,
            "store": c.store.id,
            "entity": c.destination.entity,
            "state": c.state.value,
            "severity": int(c.severity),
            "opened_ns": c.opened_ns,
            "updated_ns": c.updated_ns,
            "body": c.model_dump_json(),
        }
        for c in cases
    ]
    schema.put(connection, schema.cases, rows)


def _find(connection: sa.Connection, id_or_prefix: str) -> str:
    column = schema.cases.c.id
    if connection.execute(sa.select(column).where(column == id_or_prefix)).scalar_one_or_none():
        return id_or_prefix
    begin = column.startswith(id_or_prefix, autoescape=True) if id_or_prefix else sa.false()
    found = connection.execute(sa.select(column).where(begin).order_by(column).limit(6)).scalars().all()
    if not found:
        raise StateError(f"no case {id_or_prefix!r}; `sekisho cases list` shows those there are")
    if len(found) > 1:
        more = ", …" if len(found) > 5 else ""
        raise StateError(
            f"{id_or_prefix!r} begins several cases: {', '.join(found[:5])}{more}; give more of the id"
        )
    return str(found[0])


def _body(connection: sa.Connection, id_: str) -> str:
    question = sa.select(schema.cases.c.body).where(schema.cases.c.id == id_)
    return str(connection.execute(question).scalar_one())


def _shown_case(connection: sa.Connection, id_: str) -> Case:
    actions = _actions(connection, schema.case_actions.c.case_id == id_)
    return shown(Case.model_validate_json(_body(connection, id_)), actions)


def _actions(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Action]:
    table = schema.case_actions.c
    question = sa.select(
        table.id, table.case_id, table.kind, table.who, table.note, table.verdict, table.time_ns
    )
    found = connection.execute(question.where(*where).order_by(table.id))
    return [_action(id_, case_id, ActionKind(kind), *rest) for id_, case_id, kind, *rest in found]


def _action(
    id_: int, case_id: str, kind: ActionKind, who: str, note: str, value: str, time_ns: int
) -> Action:
    verdict = Verdict(value) if kind is ActionKind.CLOSE and value else None
    return Action(id_, case_id, kind, who, note, verdict, time_ns, value if kind is ActionKind.ASSIGN else "")


def _by_case(actions: Iterable[Action]) -> dict[str, list[Action]]:
    grouped: dict[str, list[Action]] = {}
    for action in actions:
        grouped.setdefault(action.case_id, []).append(action)
    return grouped
