"""Frames to packets: links, tunnels, headers; shared by every packet collector."""
