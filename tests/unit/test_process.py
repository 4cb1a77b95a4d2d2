"""What is settled for the whole process before numpy is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAID = """
import os
from agent.core import process
process.prepare()
import sys
assert "numpy" not in sys.modules
import numpy as np
a = np.ones(1 << 21, np.uint8)
address = a.ctypes.data
brk = next(line for line in open("/proc/self/maps") if "[heap]" in line).split()[0].split("-")
print(os.environ["OPENBLAS_NUM_THREADS"], int(brk[0], 16) <= address < int(brk[1], 16), len(os.listdir("/proc/self/task")))
"""


def run(**environment: str) -> list[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", SAID], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_arrays_come_from_the_heap_and_no_thread_is_started() -> None:
    """After ``prepare`` an array of 2 MiB lies in the heap, and numpy has started no thread of its own."""
    assert run() == ["1", "True", "1"]


def test_no_plugin_of_pydantic_is_asked_for_and_cycles_are_looked_for_seldom() -> None:
    """After ``prepare`` pydantic loads no plugins, unless the user said otherwise, modules load without searches,
    and what is loaded is never searched again."""
    said = """
import gc, os
from agent.core import process
process.prepare()
loading = gc.get_threshold()[0]
process.settled()
print(os.environ["PYDANTIC_DISABLE_PLUGINS"], loading, gc.get_threshold()[0], gc.get_freeze_count() > 1_000)
"""
    for given, wanted in (({}, "__all__"), ({"PYDANTIC_DISABLE_PLUGINS": "x"}, "x")):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYDANTIC")} | given
        done = subprocess.run(
            [sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [wanted, "250000", "20000", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_what_the_user_set_stays() -> None:
    """Thresholds and threads that the environment names are left alone."""
    said = run(OPENBLAS_NUM_THREADS="2", MALLOC_MMAP_THRESHOLD_="131072")
    assert said[:2] == ["2", "False"]


CYCLES = """
import gc, weakref
from agent.core import process
process.prepare()
class Node:
    pass
before = Node()
before.own = before
gone = weakref.ref(before)
del before
process.settled()
print(gone() is None, gc.get_freeze_count() > 0)
"""


def test_what_is_garbage_when_the_run_begins_does_not_stay() -> None:
    """A cycle that nobody holds is gone after ``settled``; what is held is looked at no more."""
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
