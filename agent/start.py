"""Where the command ``sekisho`` begins: before anything is loaded that a Ctrl-C could interrupt with a traceback."""

from __future__ import annotations

import signal
from typing import Any


def main() -> Any:
    """Run the program. Until it can say so itself, a Ctrl-C ends it without a word; one that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agent.cli import main as run

    return run()
