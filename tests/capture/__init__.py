"""The truth bench: what a live collector counts, and whom it names, against counts that no tool under test produced.

``scenarios`` says what is sent, ``wire`` makes the namespaces and counts, ``agent`` runs the collector, ``judge`` compares.
"""
