"""What was observed: heartbeats and time in (``covering``), receipts (``receipts``) and events by cause (``causes``) out.

The detector of many hosts drives it with heartbeats from Kafka (:mod:`agent.receiving.hearing`), a run that decides in its
own process with its own account (``own``). ``publishing`` sends what is committed.
"""
