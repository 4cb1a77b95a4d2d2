"""YAML with line numbers, checked against a pydantic model: every fault at once, each with its line and advice.

The dialect is small on purpose. Plain words are YAML 1.2: only ``true`` and ``false`` are booleans, so that ``on``
can be a key and ``NO`` a country. Refused, because a person would not see what they do: a key given twice, aliases
and merge keys (a few lines of them can stand for gigabytes), more than one document, custom tags, deep nesting.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agent.core.errors import ConfigError, Fault
from agent.core.shipped import Loader
from agent.policy.document import Document, KeyPath
from agent.policy.faults import faults_of

MAX_OCTETS = 8 * 2**20
"""Largest file that is read."""
MAX_DEPTH = 40
"""Deepest nesting of lists and mappings."""

Model = TypeVar("Model", bound=BaseModel)


class _Loader(Loader):  # type: ignore[misc]
    """PyYAML's safe loader with the plain words of YAML 1.2's core schema, and dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_FLOAT = (
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("timestamp", r"\d{4}-\d{2}-\d{2}", "0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read(
    source: Path | str, *, name: str = "", kind: type[ConfigError] = ConfigError, ours: bool = False
) -> Document:
    """Read a file (``Path``) or a text (``str``). ``name`` is what faults call it. Raises ``kind`` with the line.

    ``ours``: it comes with this program, so nobody hides anything in it.
    """
    text, digest, name = text_of(source, name=name, kind=kind)
    try:
        if not ours:
            _refuse_the_unseen(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[KeyPath, int] = {(): 1}
            faults: list[Fault] = []
            data = {} if node is None else _plain(loader, node, (), lines, faults, name)
        finally:
            loader.dispose()
    except _RefusedError as refused:
        raise kind(Fault(name, refused.line, refused.message, refused.advice)) from None
    except yaml.YAMLError as error:
        raise kind(_syntax_fault(name, text, error)) from None
    if faults:
        raise kind(faults)
    return Document(name, {} if data is None else data, lines, digest)


def text_of(
    source: Path | str, *, name: str = "", kind: type[ConfigError] = ConfigError
) -> tuple[str, str, str]:
    """(text, SHA-256 of its bytes, name for faults) of a file or text. Raises ``kind`` if it cannot be read as UTF-8."""
    if isinstance(source, str):
        return source, hashlib.sha256(source.encode()).hexdigest(), name or "text"
    name = name or str(source)
    try:
        with source.open("rb") as file:
            raw = file.read(MAX_OCTETS + 1)
    except OSError as error:
        advice = "check the path" if isinstance(error, FileNotFoundError) else "check its permissions"
        raise kind(Fault(name, 0, f"cannot be read: {error.strerror}", advice)) from None
    if len(raw) > MAX_OCTETS:
        raise kind(Fault(name, 0, f"is larger than {MAX_OCTETS // 2**20} MiB", "split it into several files"))
    try:
        return raw.decode("utf-8-sig"), hashlib.sha256(raw).hexdigest(), name
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise kind(Fault(name, line, "is no UTF-8 text", "save it as UTF-8")) from None


def validate(
    model: type[Model], document: Document, *, at: KeyPath = (), kind: type[ConfigError] = ConfigError
) -> Model:
    """The model that the document, or its part ``at``, describes. Raises ``kind`` with every fault there is."""
    data = document.data
    for key in at:
        data = data[key]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = dict.fromkeys(faults_of(error, document, model, prefix=at))
        raise kind(sorted(faults, key=lambda fault: fault.line)) from None


class _RefusedError(Exception):
    def __init__(self, line: int, message: str, advice: str) -> None:
        self.line, self.message, self.advice = line, message, advice


def _refuse_the_unseen(text: str) -> None:
    """Look at the events alone, before anything is built: the parser does not recurse, what comes after it does."""
    depth = documents = 0
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError(
                line, f"the alias *{event.anchor} is not followed here", "write the value out"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _RefusedError(line, f"is nested more than {MAX_DEPTH} levels deep", "write it flatter")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _RefusedError(line, "a second document begins here", "remove the line `---`")


def _plain(
    loader: Any, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], faults: list[Fault], name: str
) -> Any:
    """The node's value; notes the line of everything in it."""
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
            items.append(_plain(loader, item, (*path, index), lines, faults, name))
        return items
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, lines, faults, name)
    line = node.start_mark.line + 1
    try:
        return loader.construct_object(node)
    except yaml.constructor.ConstructorError:
        faults.append(Fault(name, line, f"the tag {node.tag} is not known here", "remove it"))
    except ValueError as error:
        faults.append(Fault(name, line, f"{node.value!r}: {error}", "correct it, or put it in quotes"))
    return None


def _mapping(
    loader: Any,
    node: yaml.MappingNode,
    path: KeyPath,
    lines: dict[KeyPath, int],
    faults: list[Fault],
    name: str,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.append(Fault(name, line, "a list or mapping cannot be a key", "put { } text in quotes"))
            continue
        key = key_node.value
        if key == "<<":
            faults.append(Fault(name, line, "merge keys (<<) are not followed here", "write the keys out"))
        elif key in found:
            first = lines[*path, key]
            message = f"`{key}` is given twice, first on line {first}"
            faults.append(Fault(name, line, message, "keep one of them"))
        else:
            lines[*path, key] = line
            found[key] = _plain(loader, value_node, (*path, key), lines, faults, name)
    return found


def _syntax_fault(name: str, text: str, error: yaml.YAMLError) -> Fault:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position] if isinstance(error.position, int) else ""
        return Fault(
            name, before.count("\n") + 1, "holds a control character", "remove it, or save it as text"
        )
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else 0
    rows = text.splitlines()
    for row in (line, line - 1):
        if 0 < row <= len(rows) and re.match(r"^ *\t", rows[row - 1]):
            return Fault(name, row, "a tab stands in the indentation", "indent with spaces")
    problem = getattr(error, "problem", None) or str(error)
    return Fault(name, line, f"cannot be read as YAML: {problem}", _syntax_advice(problem))


def _syntax_advice(problem: str) -> str:
    if "mapping values are not allowed" in problem:
        return "look for a missing quote or a wrong indentation at a `:`"
    if "cannot start any token" in problem:
        return "put the value in quotes"
    return "look at the indentation, brackets and quotes of this line and the one above"
