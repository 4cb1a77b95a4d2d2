"""Moved to :mod:`agent.core.decision`, so that the store may know it without knowing detection."""

from agent.core.decision import Decision, LedgerRow

__all__ = ["Decision", "LedgerRow"]
