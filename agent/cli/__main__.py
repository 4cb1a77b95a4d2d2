"""``python -m agent.cli``: the same as the command ``sekisho``."""

from agent.cli import main

main()
