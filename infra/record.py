"""Values that have a name: canonical JSON, and the digest of it."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode plain data as the one JSON text it has: sorted keys, no spaces, UTF-8, no NaN.

    Raises ValueError for NaN or infinity and TypeError for what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """Name a plain value by the SHA-256 of its canonical JSON (64 hex digits)."""
    return sha256(canonical_json(value))


def sha256(data: bytes | memoryview) -> str:
    """Give the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
