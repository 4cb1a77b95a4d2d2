"""The git commit of the work tree that holds the policy's files, so that a finding can be traced to who changed what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.policy import git

CHANGED: Final = "+changed"
"""Ends a commit from which the files differ."""
_DIGITS: Final = 12
_PATIENCE_S: Final = 10


def commit_of(paths: Sequence[Path], files: Sequence[Path] = ()) -> str:
    """12 hex digits of the commit that holds these files or folders, ``+changed`` behind them if any differs from it.

    ``files``: what was read of the folders; one that git does not keep is a change too. Of several work trees all are
    named, ``,`` between them. Empty without git, outside of a work tree, for files that git does not know at all, and
    for a tree that belongs to another user (git refuses to read it). Blocks until git has answered, 10 s at most.
    """
    trees: dict[Path, tuple[list[str], list[str]]] = {}
    for path in (*paths, *files):
        if (tree := work_tree(path)) is not None:
            trees.setdefault(tree, ([], []))[0 if path in paths else 1].append(str(path.resolve()))
    return ",".join(filter(None, (_commit(tree, *inside) for tree, inside in trees.items())))


def work_tree(path: Path) -> Path | None:
    """The nearest folder around a file or folder that git keeps; None if there is none."""
    try:
        here = path.resolve()
        folders = [here, *here.parents] if here.is_dir() else list(here.parents)
        return next((folder for folder in folders if (folder / ".git").exists()), None)
    except (OSError, RuntimeError):  # RuntimeError: pathlib, of symbolic links that go in a circle
        return None


def _commit(tree: Path, named: Sequence[str], files: Sequence[str]) -> str:
    if not _asked(tree, "ls-files", "--", *named):
        return ""
    head = _asked(tree, "rev-parse", "--verify", "HEAD")
    if not head:
        return ""
    status = _asked(tree, "status", "--porcelain", "--untracked-files=all", "--", *named)
    kept = not files or _asked(tree, "ls-files", "--error-unmatch", "--", *files) is not None
    is_same = kept and status is not None and not any(map(_is_of_policy, status.splitlines()))
    return head.strip()[:_DIGITS] + ("" if is_same else CHANGED)


def _is_of_policy(line: str) -> bool:
    """Whether a line of git's status names a file that a policy may be in."""
    return line.rstrip('"').endswith((".yaml", ".yml", ".csv"))


def _asked(tree: Path, *words: str) -> str | None:
    """What git says; None if it cannot."""
    said = git.asked(tree, *_trusting(tree), *words, patience_s=_PATIENCE_S)
    return None if said is None else said.decode(errors="replace")


def _trusting(tree: Path) -> list[str]:
    """git refuses a tree of another user, whose settings might name programs; one of root's may be read by all."""
    try:
        return ["-c", f"safe.directory={tree}"] if tree.stat().st_uid == 0 else []
    except OSError:
        return []


def marks(paths: Sequence[Path]) -> list[Path]:
    """Files that change when somebody commits in the work trees of these files."""
    trees = {tree for path in paths if (tree := work_tree(path)) is not None}
    return [_own_folder(tree) / name for tree in sorted(trees) for name in ("HEAD", "logs/HEAD")]


def _own_folder(tree: Path) -> Path:
    """Where git keeps a work tree's own state: a file tells it of one beside others (gitrepository-layout(5))."""
    there = tree / ".git"
    try:
        if there.is_file():
            return tree / there.read_text(errors="replace").removeprefix("gitdir:").strip()
    except OSError:
        pass
    return there
