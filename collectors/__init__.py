"""Where flows come from: one file per source. Shared decoding stands in :mod:`collectors.packets`."""
