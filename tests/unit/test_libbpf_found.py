"""Where libbpf is looked for, what a wheel that carries it looks like, and what is said where there is none."""

from __future__ import annotations

import ctypes.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import collectors
from collectors.bpf import libbpf
from collectors.ebpf import Settings
from tests.tools.places import ROOT

SYSTEM = "libbpf.so.1"
INSTALLED = ctypes.util.find_library("bpf") == SYSTEM
needs_libbpf = pytest.mark.skipif(not INSTALLED, reason="needs libbpf.so.1 (apt-get install libbpf1)")


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    libbpf._library.cache_clear()
    yield
    libbpf.use(None)
    libbpf._library.cache_clear()


@pytest.fixture
def system_file() -> Path:
    said = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return Path(next(line.split()[-1] for line in said.splitlines() if line.strip().startswith(SYSTEM)))


def test_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting alone where there is one; else the package's own copy, if it has one, then the system's."""
    monkeypatch.setattr(libbpf, "BUNDLED", tmp_path / SYSTEM)
    assert libbpf.files() == (SYSTEM,)
    (tmp_path / SYSTEM).touch()
    assert libbpf.files() == (str(tmp_path / SYSTEM), SYSTEM)
    libbpf.use(tmp_path / "mine.so")
    assert libbpf.files() == (str(tmp_path / "mine.so"),)


@needs_libbpf
def test_the_bundled_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system_file: Path) -> None:
    """Though the system has one too."""
    shutil.copy(system_file, tmp_path / SYSTEM)
    monkeypatch.setattr(libbpf, "BUNDLED", tmp_path / SYSTEM)
    assert (libbpf.missing(), libbpf.where()) == ("", str(tmp_path / SYSTEM))


@needs_libbpf
def test_a_bundled_one_for_another_machine_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's is used."""
    (tmp_path / SYSTEM).write_bytes(b"\x7fELF\x02\x01\x01 of another machine")
    monkeypatch.setattr(libbpf, "BUNDLED", tmp_path / SYSTEM)
    assert (libbpf.missing(), libbpf.where()) == ("", SYSTEM)


def test_a_named_file_that_cannot_be_used_is_named_and_nothing_else_is_tried(tmp_path: Path) -> None:
    """The sentence has the file, the reason and the setting."""
    said = Settings(libbpf=tmp_path / "gone.so").hindrance()
    assert said == (
        f"libbpf cannot be used: {tmp_path}/gone.so: cannot open shared object file: No such file or directory. "
        "To mend it: correct or leave out ebpf.libbpf"
    )


def test_a_library_without_the_calls_is_too_old() -> None:
    """Such as libbpf 0.x, or another library altogether."""
    libbpf.use(Path("libc.so.6"))
    assert libbpf.missing().startswith("libc.so.6 is too old: ")


def test_without_any_the_advice_has_the_packages_and_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that was tried stands in it, and the next step for hosts whose distribution has none."""
    monkeypatch.setattr(libbpf, "_LIBRARY", "libbpf.so.99")
    said = Settings().hindrance()
    assert said.startswith("libbpf cannot be used: libbpf.so.99: cannot open shared object file")
    for word in ("libbpf1", "Ubuntu 22.04, RHEL 8", "make libbpf wheel", "ebpf.libbpf"):
        assert word in said


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of the project to build its wheel, from what is being tested."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("deploy", "docs"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    (tree / "LICENSE").touch()
    (tree / ".gitignore").write_text("collectors/bpf/lib/\n")
    for name in ("agent", "enrichers", "sinks"):
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
    unwanted = shutil.ignore_patterns("__pycache__", "lib")
    shutil.copytree(Path(str(collectors.__file__)).parent, tree / "collectors", ignore=unwanted)
    return tree


def built(tree: Path) -> Path:
    shutil.rmtree(tree / "dist", ignore_errors=True)
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(line, cwd=tree, check=True, capture_output=True)
    return next((tree / "dist").glob("*.whl"))


def test_the_plain_wheel_is_for_any_linux_and_brings_programs_and_unit(tree: Path) -> None:
    """No architecture in its name; both compiled programs, the unit with its folders, and the man page are in it."""
    wheel = built(tree)
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"collectors/bpf/flow.bpf.o", "collectors/bpf/iter.bpf.o"} <= set(names)
    assert not any("libbpf.so" in name for name in names)
    data = {name.split(".data/data/")[1] for name in names if ".data/data/" in name}
    assert data == {
        "share/bash-completion/completions/sekisho",
        "share/fish/vendor_completions.d/sekisho.fish",
        "share/zsh/site-functions/_sekisho",
        "share/man/man1/sekisho.1",
        "share/sekisho/systemd/drop-ins/af-packet.conf",
        "share/sekisho/systemd/sekisho-agent.service",
        "share/sekisho/systemd/sekisho-archive.service",
        "share/sekisho/systemd/sekisho-detect.service",
        "share/sekisho/systemd/sekisho-detector.sysusers.conf",
        "share/sekisho/systemd/sekisho-detector.tmpfiles.conf",
        "share/sekisho/systemd/sekisho-republish.service",
        "share/sekisho/systemd/sekisho.sysusers.conf",
        "share/sekisho/systemd/sekisho.tmpfiles.conf",
    }


@needs_libbpf
def test_a_wheel_with_libbpf_says_for_whom_and_its_loader_finds_it(tree: Path, tmp_path: Path) -> None:
    """`make libbpf` copies library and licence; the tag names architecture and glibc; unpacked, the copy is what is loaded."""
    subprocess.run(["sh", str(tree / "collectors/bpf/bundle.sh")], check=True, capture_output=True)
    wheel = built(tree)
    from packaging.tags import sys_tags
    from packaging.utils import parse_wheel_filename

    tags = parse_wheel_filename(wheel.name)[3]
    assert all(tag.platform.startswith("manylinux_2_") for tag in tags)
    assert tags & set(sys_tags())
    zipfile.ZipFile(wheel).extractall(tmp_path)
    note = (tmp_path / "collectors/bpf/lib/libbpf.so.1.licence.txt").read_text()
    assert "LGPL-2.1" in note or "BSD" in note
    code = "import json; from collectors.bpf import libbpf; print(json.dumps([libbpf.missing(), libbpf.where()]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["", str(tmp_path / "collectors/bpf/lib/libbpf.so.1")]


def test_the_tag_of_each_architecture() -> None:
    """From the library's own header and the newest glibc symbol it asks for; what no wheel is built for is refused."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("wheel_tag", ROOT / "deploy" / "wheel_tag.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def library(machine: int, *symbols: bytes) -> bytes:
        return (
            b"\x7fELF\x02\x01"
            + bytes(12)
            + machine.to_bytes(2, "little")
            + b"".join(b"\0" + s for s in symbols)
        )

    assert (
        module.tag(library(62, b"GLIBC_2.9", b"GLIBC_2.28", b"GLIBC_2.2.5"))
        == "py3-none-manylinux_2_28_x86_64"
    )
    assert module.tag(library(183, b"GLIBC_2.17", b"GLIBC_2.34")) == "py3-none-manylinux_2_34_aarch64"
    with pytest.raises(ValueError, match="not machine 8"):
        module.tag(library(8))
    with pytest.raises(ValueError, match="no 64-bit little-endian ELF"):
        module.tag(b"!<arch>\n")
