"""What is added to each flow: one file per kind of fact. Shared look-up stands in :mod:`enrichers.ranges`."""
