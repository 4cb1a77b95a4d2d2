"""Policy files as they stood at a git revision: read as git keeps them, with no filter and no program of the work tree run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from agent.core.errors import Fault, PolicyError
from agent.policy import git

_PATIENCE_S: Final = 30
_ENDINGS: Final = (".yaml", ".yml", ".csv")


@contextmanager
def at_revision(revision: str, paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The files and folders as they stood then, in a folder that is gone afterwards. What did not stand there then is left
    out. Faults raised inside name ``REVISION:path``. Raises :class:`PolicyError`. Blocks while git answers.
    """
    tree = _tree_of(paths)
    if _git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") is None:
        advice = "name a file, a folder, or a commit, branch or tag of the work tree that holds the policy"
        raise PolicyError(Fault(revision, 0, "is no file and no git revision", advice))
    with TemporaryDirectory(prefix="sekisho-policy-") as made:
        folder = Path(made)
        found = [copied for path in paths if (copied := _copied(tree, revision, path, folder)) is not None]
        if not found:
            named = ", ".join(map(str, paths))
            raise PolicyError(Fault(revision, 0, f"holds none of {named}", "name another revision"))
        try:
            yield found
        except PolicyError as error:
            faults = [replace(f, file=f.file.replace(f"{folder}/", f"{revision}:")) for f in error.faults]
            raise PolicyError(faults) from None


def _tree_of(paths: Sequence[Path]) -> Path:
    here = (paths[0] if paths else Path()).absolute()
    start = here if here.is_dir() else here.parent
    top = _git(start, "rev-parse", "--show-toplevel") if start.is_dir() else None
    if top is None:
        advice = "a revision can be named only where the policy is kept in git"
        raise PolicyError(Fault(str(here), 0, "stands in no git work tree", advice))
    return Path(top.decode(errors="surrogateescape").rstrip("\n"))


def _copied(tree: Path, revision: str, path: Path, folder: Path) -> Path | None:
    try:
        inside = path.absolute().resolve().relative_to(tree.resolve())
    except ValueError:
        return None
    listed = _git(tree, "ls-tree", "-r", "-z", "--name-only", revision, "--", str(inside)) or b""
    names = [name.decode(errors="surrogateescape") for name in listed.split(b"\0") if name]
    for name in names:
        if (
            name.endswith(_ENDINGS)
            and (body := _git(tree, "cat-file", "blob", f"{revision}:{name}")) is not None
        ):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)
    return folder / inside if (folder / inside).exists() else None


def _git(tree: Path, *words: str) -> bytes | None:
    return git.asked(tree, *words, patience_s=_PATIENCE_S)
