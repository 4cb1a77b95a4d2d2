"""Where flows and notices go: one file per kind of place."""
