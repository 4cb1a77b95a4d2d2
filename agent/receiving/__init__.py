"""What reads the topics of many hosts: the detector (``detecting``), the archiver and the republisher (``archiving``).

Reader ─> checking ─> stream ─> deciding        heartbeats ─> hearing ─> agent.covering
                 └──> copying                   requests of new agents ─> enrolling
"""
