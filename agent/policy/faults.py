"""pydantic's errors as faults: the line, what was expected in plain words, and how to mend it.

A validator of ours gives advice by raising :func:`wrong`; anything else is put into words here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from agent.core.errors import Fault
from agent.policy.document import Document

FEW = 6
"""As many choices are shown whole, more give way to the nearest one."""

MANY = 500
"""More words than this are not compared one by one, nor listed."""

_TEXT = "put it in quotes"
_EXPECTED: Mapping[str, tuple[str, str]] = {
    "string_type": ("expected text", _TEXT),
    "int_type": ("expected a whole number", ""),
    "int_parsing": ("expected a whole number", ""),
    "int_from_float": ("expected a whole number", ""),
    "float_type": ("expected a number", ""),
    "float_parsing": ("expected a number", ""),
    "bool_type": ("expected true or false", ""),
    "bool_parsing": ("expected true or false", ""),
    "tuple_type": ("expected a list", "write [a, b], or one `- a` per line"),
    "list_type": ("expected a list", "write [a, b], or one `- a` per line"),
    "dict_type": ("expected keys and values", "write `key: value` lines, indented"),
    "model_type": ("expected keys and values", "write `key: value` lines, indented"),
    "date_type": ("expected a date", "write it as 2026-11-18"),
    "date_parsing": ("expected a date", "write it as 2026-11-18"),
    "date_from_datetime_parsing": ("expected a date", "write it as 2026-11-18"),
    "date_from_datetime_inexact": ("expected a date without a time", "write it as 2026-11-18"),
    "too_short": ("is empty", "give at least one"),
    "string_too_short": ("is empty", "give it"),
    "path_type": ("expected a path", ""),
}


def wrong(message: str, advice: str = "") -> PydanticCustomError:
    """An error for a validator to raise: what was expected, and how to mend it."""
    context = {"say": message, "advice": advice}
    return PydanticCustomError("wrong", "{say}", context)


def faults_of(
    error: ValidationError,
    document: Document | None,
    model: type[BaseModel],
    prefix: Sequence[str | int] = (),
) -> list[Fault]:
    """One fault per error, in pydantic's order. ``prefix`` is where in the document the validated part stands."""
    details = error.errors(include_url=False)
    return [_fault(_cause(detail, details), document, model, tuple(prefix)) for detail in details]


def _cause(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> ErrorDetails:
    """A list that is too short because its items are wrong: the first of those."""
    if detail["type"] != "too_short":
        return detail
    loc = detail["loc"]
    inner = (d for d in details if len(d["loc"]) > len(loc) and d["loc"][: len(loc)] == loc)
    return next(inner, detail)


def _fault(
    detail: ErrorDetails, document: Document | None, model: type[BaseModel], prefix: tuple[str | int, ...]
) -> Fault:
    loc, kind = tuple(detail["loc"]), detail["type"]
    owner_loc = loc[:-1] if kind in ("extra_forbidden", "missing") else loc
    given = _given(document, prefix, owner_loc)
    place = given if kind == "missing" else (*given, *loc[len(owner_loc) :])
    message, advice = _words(detail, model, loc)
    dotted = _dotted(given[len(prefix) :])
    said = f"{dotted}: {message}" if dotted else message
    if document is None:
        return Fault("settings", 0, said, advice)
    return Fault(document.name, document.line_of((*place,)), said, advice)


def _given(
    document: Document | None, prefix: tuple[str | int, ...], loc: tuple[str | int, ...]
) -> tuple[str | int, ...]:
    """The part of ``loc`` that is really in the document: pydantic adds the names of union members and the like."""
    if document is None:
        return (*prefix, *loc)
    path = prefix
    for key in loc:
        if (*path, key) in document.lines:
            path = (*path, key)
    return path


def _words(detail: ErrorDetails, model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[str, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(loc[-1])
        known = sorted(_names(model, loc[:-1]))
        return f"unknown key `{key}`", nearest(key, known)
    if kind == "missing":
        about = _description(model, loc)
        return f"`{loc[-1]}` is missing", about and f"it says: {about[0].lower()}{about[1:]}"
    if kind in ("enum", "literal_error"):
        choices = list(map(str, _choices(model, loc))) or [str(context.get("expected", ""))]
        few = f"choose one of: {', '.join(choices)}"
        advice = few if len(choices) <= FEW else nearest(str(value), choices, "choose one of")
        return f"{_show(value)} is none of the choices", advice
    if kind == "string_pattern_mismatch":
        about = _description(model, loc)
        return f"{_show(value)} is not written as expected", about
    if kind in _EXPECTED:
        said, advice = _EXPECTED[kind]
        return (said if value in ([], (), "", {}) else f"{said}, got {_show(value)}"), advice
    said = detail["msg"].removeprefix("Value error, ")
    if kind not in ("wrong", "value_error"):
        said = f"{said[0].lower()}{said[1:]}, got {_show(value)}"
    return said, str(context.get("advice", ""))


def nearest(word: str, known: Sequence[str], verb: str = "known here") -> str:
    """Advice that names the nearest known word, or all of them if they are not many."""
    near = difflib.get_close_matches(word.lower(), _alike(word.lower(), known), 1, 0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if len(known) > MANY:
        return f"{len(known)} are known, none of them like it"
    return f"{verb}: {', '.join(known)}" if known else ""


def _alike(word: str, known: Sequence[str]) -> Sequence[str]:
    """Where thousands are known, those that begin or end alike: looking at each takes a second."""
    if len(known) <= MANY:
        return known
    alike = (k for k in known if k[:2] == word[:2] or k[-4:] == word[-4:])
    return list(islice(alike, MANY))


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"


def _dotted(loc: Sequence[str | int]) -> str:
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def _models(model: Any, loc: Sequence[str | int]) -> Iterator[Any]:
    """The annotations that a value at ``loc`` may have."""
    origin = get_origin(model)
    if origin is Annotated:
        yield from _models(get_args(model)[0], loc)
    elif origin in (Union, UnionType):
        for member in get_args(model):
            yield from _models(member, loc)
    elif not loc:
        yield model
    elif isinstance(model, type) and issubclass(model, BaseModel):
        if found := model.model_fields.get(str(loc[0])):
            yield from _models(found.annotation, loc[1:])
    elif origin in (dict, tuple, list, set, frozenset) or (origin and issubclass(origin, Mapping)):
        inner = get_args(model)[-1 if issubclass(origin, Mapping) else 0]
        yield from _models(inner, loc[1:])


def _names(model: type[BaseModel], loc: Sequence[str | int]) -> Iterator[str]:
    for found in _models(model, loc):
        if isinstance(found, type) and issubclass(found, BaseModel):
            yield from found.model_fields


def _choices(model: type[BaseModel], loc: Sequence[str | int]) -> Iterator[Any]:
    for found in _models(model, loc):
        if get_origin(found) is Literal:
            yield from get_args(found)
        elif isinstance(found, type) and issubclass(found, Enum):
            yield from (member.value for member in found)


def _description(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    """What the field at ``loc`` (or around it, for a list item) says of itself."""
    while loc and not isinstance(loc[-1], str):
        loc = loc[:-1]
    for owner in _models(model, loc[:-1]) if loc else ():
        if isinstance(owner, type) and issubclass(owner, BaseModel):
            found = owner.model_fields.get(str(loc[-1]))
            if found is not None:
                return found.description or _inner_description(found.annotation)
    return ""


def _inner_description(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        for extra in get_args(annotation)[1:]:
            if isinstance(extra, FieldInfo) and extra.description:
                return extra.description
    return next((said for inner in get_args(annotation) if (said := _inner_description(inner))), "")
