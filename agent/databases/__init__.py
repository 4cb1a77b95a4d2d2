"""The country and network databases: getting them, looking after them, and asking them about one address.

``sekisho db`` calls :func:`install`, :func:`status` and :func:`verify`; ``sekisho who`` asks an :class:`AddressBook`.
"""

from agent.databases.book import AddressBook, AddressFacts, Line, Witness
from agent.databases.installing import Status, Verified, install, status, verify
from agent.databases.shelf import Installed

__all__ = [
    "AddressBook",
    "AddressFacts",
    "Installed",
    "Line",
    "Status",
    "Verified",
    "Witness",
    "install",
    "status",
    "verify",
]
