"""The country and network databases: getting them, looking after them, and asking them about one address.

``sekisho db`` calls :func:`install`, :func:`status` and :func:`verify`; ``sekisho who`` asks an :class:`AddressBook`.
"""

from agent.databases.book import AddressBook, AddressFacts, Witness
from agent.databases.canaries import read_canaries, unmet
from agent.databases.in_force import InForce, in_force
from agent.databases.installing import Status, Verified, install, status, verify
from agent.databases.shelf import Installed
from agent.databases.told import Line, told

__all__ = [
    "AddressBook",
    "AddressFacts",
    "InForce",
    "Installed",
    "Line",
    "Status",
    "Verified",
    "Witness",
    "in_force",
    "install",
    "read_canaries",
    "status",
    "told",
    "unmet",
    "verify",
]
