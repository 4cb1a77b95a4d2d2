"""Frames to packets to flows, shared by every packet collector."""
