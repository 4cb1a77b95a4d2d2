"""Who an agent is: an Ed25519 key (RFC 8032) that never leaves its host, and the id that stands for it.

The key is made once, in a file that only its owner reads. The detector pins its public half to the agent's id; whoever
signs otherwise under that id is quarantined.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.core.errors import StateError
from agent.core.said import said

_FILE: Final = "agent.key"
_RAW = serialization.Encoding.Raw
KEY_OCTETS: Final = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """An agent's key."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The public key, 32 octets."""
        return self.key.public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 octets."""
        return self.key.sign(message)


def identity(state_dir: Path) -> Identity:
    """The key in ``state_dir``, made if there is none. Raises :class:`StateError`."""
    path = state_dir / _FILE
    try:
        return Identity(_read(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateError(
            said("{path}: {error}; it must be readable by the agent's user", path=path, error=error.strerror)
        ) from error
    except ValueError as error:
        raise StateError(
            said(
                "{path} holds no Ed25519 key; restore it, or move it away and enrol this agent anew",
                path=path,
            )
        ) from error
    try:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        return Identity(_make(path))
    except FileExistsError:  # another process was quicker
        return Identity(_read(path))
    except OSError as error:
        raise StateError(
            said("{path} cannot be written: {error}", path=path, error=error.strerror)
        ) from error


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a public key signed a message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(path: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("another kind of key")
    return key


def _make(path: Path) -> Ed25519PrivateKey:
    """A new key, on the disk whole or not at all."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(pem)
            out.flush()
            os.fsync(out.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    return key
