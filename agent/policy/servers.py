"""Servers that keep data, told by what holds their socket: executable, unit and process first, the port last.

Nothing is asked over the network and nothing is sent: only names that the kernel and systemd give. Sources: IANA service
names and ports, and the makers' packages and documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STORE_PORTS: Final[Mapping[int, str]] = {
    104: "DICOM archive",
    111: "",  # portmapper: says nothing of what is kept
    445: "SMB file server",
    1433: "SQL Server",
    1521: "Oracle Database",
    2049: "NFS file server",
    2575: "HL7 (MLLP) interface",
    3306: "MySQL or MariaDB",
    5432: "PostgreSQL",
    5984: "CouchDB",
    6379: "Redis",
    9042: "Cassandra",
    9200: "Elasticsearch or OpenSearch",
    11112: "DICOM archive",
    27017: "MongoDB",
    50000: "Db2",
}
"""Ports on which data stores commonly listen."""

_PROCESSES: Final[Mapping[str, str]] = {
    "postgres": "PostgreSQL",
    "mysqld": "MySQL",
    "mariadbd": "MariaDB",
    "mongod": "MongoDB",
    "redis-server": "Redis",
    "redis-check-rdb": "Redis",  # what Debian's /usr/bin/redis-server is a link to
    "valkey-server": "Valkey",
    "keydb-server": "KeyDB",
    "memcached": "memcached",
    "smbd": "SMB file server",
    "minio": "MinIO",
    "clickhouse-server": "ClickHouse",
    "clickhouse": "ClickHouse",
    "sqlservr": "SQL Server",
    "tnslsnr": "Oracle Database",
    "db2sysc": "Db2",
    "nfsd": "NFS file server",
    "ganesha.nfsd": "NFS file server",
    "radosgw": "Ceph object gateway",
    "etcd": "etcd",
    "influxd": "InfluxDB",
    "slapd": "LDAP directory",
    "Orthanc": "DICOM archive",
    "dcmqrscp": "DICOM archive",
    "storescp": "DICOM archive",
    "hl7rcv": "HL7 (MLLP) interface",
}
"""Names of processes or executables; compared as Linux cuts them."""

_PATHS: Final = (
    (re.compile(r"/elasticsearch[/-]"), "Elasticsearch"),
    (re.compile(r"/opensearch[/-]"), "OpenSearch"),
    (re.compile(r"/cassandra[/-]"), "Cassandra"),
    (re.compile(r"/dcm4che"), "DICOM archive"),
    (re.compile(r"/(?:mirth|mirthconnect|mirth-connect)[/-]", re.IGNORECASE), "HL7 (MLLP) interface"),
)
"""Folders of executables: what brings a Java of its own."""

_UNITS: Final = (
    (re.compile(r"^elasticsearch"), "Elasticsearch"),
    (re.compile(r"^opensearch"), "OpenSearch"),
    (re.compile(r"^cassandra"), "Cassandra"),
    (re.compile(r"^couchdb|^snap\.couchdb"), "CouchDB"),
    (re.compile(r"^postgresql"), "PostgreSQL"),
    (re.compile(r"^mariadb"), "MariaDB"),
    (re.compile(r"^mysql"), "MySQL"),
    (re.compile(r"^mongod"), "MongoDB"),
    (re.compile(r"^redis"), "Redis"),
    (re.compile(r"^minio"), "MinIO"),
    (re.compile(r"^nfs-server|^nfs-ganesha"), "NFS file server"),
    (re.compile(r"^smbd|^samba"), "SMB file server"),
    (re.compile(r"^orthanc|^dcm4chee"), "DICOM archive"),
    (re.compile(r"^mirth|^mcservice|^mcserver"), "HL7 (MLLP) interface"),
)
"""Beginnings of systemd units, for what runs in an interpreter that says nothing."""

NO_STORE: Final = frozenset(
    {"sshd", "systemd-resolve", "systemd-resolved", "cupsd", "chronyd", "exim4", "master"}
)
"""Processes that keep no data of others, whatever port they are given."""

COMM_LENGTH: Final = 15
"""Longest process name that Linux reports (TASK_COMM_LEN less its end mark)."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A port on which something of this host accepts connections. Empty text: not known."""

    port: int
    process: str = ""
    executable: str = ""
    unit: str = ""
    guess: str = ""
    """What kind of data store it may be, such as ``PostgreSQL``; empty: probably none."""
    container: str = ""
    """Id of the container in which it runs."""
    pod: str = ""
    """Kubernetes pod, ``namespace/name``."""
    by: str = ""
    """What the guess rests on: executable, process, unit or port; empty without a guess."""


def guess(port: int, process: str = "", executable: str = "", unit: str = "") -> str:
    """What kind of data store listens there; empty if none. See :func:`guessed`."""
    return guessed(port, process, executable, unit)[0]


def guessed(port: int, process: str = "", executable: str = "", unit: str = "") -> tuple[str, str]:
    """(what kind of data store listens there, what says so): its executable, process name or unit, else its port."""
    base = executable.rpartition("/")[2]
    if kind := _by_name(base) or next((kind for path, kind in _PATHS if path.search(executable)), ""):
        return kind, "executable"
    if kind := _by_name(process):
        return kind, "process"
    if kind := next((kind for name, kind in _UNITS if name.search(unit)), ""):
        return kind, "unit"
    if process in NO_STORE or base in NO_STORE:
        return "", ""
    kind = STORE_PORTS.get(port, "")
    return kind, "port" if kind else ""


def _by_name(name: str) -> str:
    return _PROCESSES.get(name) or _CUT.get(name, "")


_CUT: Final = {name[:COMM_LENGTH]: kind for name, kind in _PROCESSES.items()}
