"""State on disk: the only room that knows SQL."""
