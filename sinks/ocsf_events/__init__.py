"""OCSF 1.8.0 events as plain dicts. The only place that knows OCSF names; :mod:`sinks.ocsf` writes them out."""
