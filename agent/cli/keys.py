"""Single keys from the terminal, without waiting for Enter."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def keys(heard: Callable[[str], None]) -> Iterator[None]:
    """Call ``heard`` from another thread for each key until the block ends. Does nothing where there is no terminal.

    The terminal is as it was afterwards, whatever happens. Ctrl-C stays a signal.
    """
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    waker, wake = os.pipe()
    reader = threading.Thread(target=_read, args=(number, waker, heard), name="keys", daemon=True)
    try:
        tty.setcbreak(number)
        reader.start()
        yield
    finally:
        os.write(wake, b"\0")
        if reader.ident is not None:
            reader.join(timeout=1.0)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
        os.close(waker)
        os.close(wake)


def _read(number: int, waker: int, heard: Callable[[str], None]) -> None:
    while True:
        ready, _, _ = select.select([number, waker], [], [])
        if waker in ready:
            return
        pressed = os.read(number, 64)
        if not pressed:
            return
        # An arrow key comes as a sequence, of which no letter is a key of ours.
        if not pressed.startswith(b"\x1b"):
            for key in pressed.decode("ascii", "ignore"):
                heard(key)
