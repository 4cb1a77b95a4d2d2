"""Packets to flows: the one flow rule (docs/flow-rule.md), shared by every packet collector."""
