"""YAML with lines, and pydantic's errors in plain words."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from agent.core.errors import ConfigError, PolicyError
from agent.policy.yamlfile import MAX_OCTETS, read, validate


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "green"] = "red"
    size: int | None = None
    when: date | None = None


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="What people call it")
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = {}


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        validate(Tree, read(text, name="t.yaml"))
    return [str(fault) for fault in raised.value.faults]


def test_lines_of_keys_and_items() -> None:
    """Each key and list item knows its line; what is not there has the line of what holds it."""
    document = read("a:\n  - x\n  - b: 1\n    c: 2\n", name="t.yaml")
    assert document.data == {"a": ["x", {"b": 1, "c": 2}]}
    asked = [("a",), ("a", 0), ("a", 1), ("a", 1, "c"), ("a", 1, "zz"), ("zz",), ()]
    assert [document.line_of(keys) for keys in asked] == [1, 2, 3, 4, 3, 1, 1]


def test_plain_words() -> None:
    """Only true and false are booleans, 22:22 is text, 010 is no octal number, and dates are dates."""
    text = "on: NO\na: yes\nb: true\nc: 22:22\nd: 010\ne: 1.5\nf: 0x1F\ng: ~\nh:\ni: 2026-01-02\nj: 2026.1.2"
    assert read(text).data == {
        "on": "NO",
        "a": "yes",
        "b": True,
        "c": "22:22",
        "d": "010",
        "e": 1.5,
        "f": 31,
        "g": None,
        "h": None,
        "i": date(2026, 1, 2),
        "j": "2026.1.2",
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "t.yaml:3: `a` is given twice, first on line 1 (keep one of them)"),
        ("a:\n\tb: 1", "t.yaml:2: a tab stands in the indentation (indent with spaces)"),
        ("a: &x 1\nb: *x", "t.yaml:2: the alias *x is not followed here (write the value out)"),
        ("<<: {}", "t.yaml:1: merge keys (<<) are not followed here (write the keys out)"),
        ("a: 1\n---\nb: 1", "t.yaml:2: a second document begins here (remove the line `---`)"),
        ("a: !!python/name:os.system x", "t.yaml:1: the tag tag:yaml.org,2002:python/name:os.system is not"),
        ("a: 2026-13-01", "t.yaml:1: '2026-13-01': month must be in 1..12"),
        ("{[a]: 1}", "t.yaml:1: a list or mapping cannot be a key"),
        ("a: 1\nb: @x", "t.yaml:2: cannot be read as YAML: found character that cannot start any token"),
        ("a: b: c", "t.yaml:1: cannot be read as YAML: mapping values are not allowed in this context"),
        ("a: 1\nb: \x01", "t.yaml:2: holds a control character"),
        ("[" * 60 + "]" * 60, "t.yaml:1: is nested more than 40 levels deep (write it flatter)"),
        ("[" * 100_000, "t.yaml:1: is nested more than 40 levels deep"),
    ],
)
def test_what_is_refused(text: str, fault: str) -> None:
    """Broken, ambiguous and hostile YAML is one clear fault with its line."""
    with pytest.raises(PolicyError) as raised:
        read(text, name="t.yaml", kind=PolicyError)
    assert str(raised.value).startswith(fault)


def test_alias_bomb_is_refused() -> None:
    """Nine nested aliases, which would stand for a billion items, are refused at the first one."""
    rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    rows += [f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]" for m, n in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(ConfigError) as raised:
        read("\n".join(rows), name="t.yaml")
    assert raised.value.faults[0].line == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, too large, not UTF-8: each is a fault that says so."""
    missing, large, latin = tmp_path / "missing.yaml", tmp_path / "large.yaml", tmp_path / "latin.yaml"
    large.write_bytes(b"#" * (MAX_OCTETS + 1))
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    said = []
    for path in (missing, tmp_path, large, latin):
        with pytest.raises(ConfigError) as raised:
            read(path)
        said.append(str(raised.value))
    assert said == [
        f"{missing}: cannot be read: No such file or directory (check the path)",
        f"{tmp_path}: cannot be read: Is a directory (check its permissions)",
        f"{large}: is larger than 8 MiB (split it into several files)",
        f"{latin}:2: is no UTF-8 text (save it as UTF-8)",
    ]


def test_empty_file_and_byte_order_mark(tmp_path: Path) -> None:
    """An empty file says nothing; a byte order mark is no part of the first key."""
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert (read("# nothing\n").data, read(file).data) == ({}, {"a": 1})


def test_all_faults_at_once() -> None:
    """Every fault of a file is reported in one run, by line, each with what was expected and how to mend it."""
    text = """\
nmae: x
leaves:
  - colour: blue
    size: many
  - {colour: gren, when: soon}
  - 7
by_name:
  one: {colur: red}
"""
    assert faults(text) == [
        "t.yaml:1: `name` is missing (it says: what people call it)",
        "t.yaml:1: unknown key `nmae` (did you mean `name`?)",
        "t.yaml:3: leaves[0].colour: `blue` is none of the choices (choose one of: red, green)",
        "t.yaml:4: leaves[0].size: expected a whole number, got `many`",
        "t.yaml:5: leaves[1].colour: `gren` is none of the choices (choose one of: red, green)",
        "t.yaml:5: leaves[1].when: expected a date, got `soon` (write it as 2026-11-18)",
        "t.yaml:6: leaves[2]: expected keys and values, got `7` (write `key: value` lines, indented)",
        "t.yaml:8: by_name.one: unknown key `colur` (did you mean `colour`?)",
    ]


def test_number_for_text() -> None:
    """A name that YAML reads as a number is told to be put in quotes."""
    assert faults("name: 5") == ["t.yaml:1: name: expected text, got `5` (put it in quotes)"]


def test_part_of_a_document() -> None:
    """A part of a document is checked by itself, with the whole document's lines."""
    document = read("x:\n  y:\n    colour: blue\n", name="t.yaml")
    with pytest.raises(ConfigError) as raised:
        validate(Leaf, document, at=("x", "y"))
    assert [fault.line for fault in raised.value.faults] == [3]


@given(
    st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?~ \n\t0.1"), max_size=60) | st.text(max_size=40)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the text, it is read, or refused with our own error."""
    try:
        document = read(text, name="t.yaml")
    except ConfigError as error:
        assert all(fault.file == "t.yaml" for fault in error.faults)
    else:
        assert document.line_of(()) == 1
