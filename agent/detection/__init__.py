"""Deciding: rows in, findings out. No clock, no I/O, no randomness."""
