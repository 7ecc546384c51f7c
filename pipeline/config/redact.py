"""Redaction of storage options, which may hold keys and tokens."""

import re
from typing import Any

#: storage options that are never secret; all others are redacted, known or not
_PUBLIC_OPTIONS = frozenset(
    {
        *("addressing_style", "anon", "connect_timeout", "default_block_size", "default_cache_type", "endpoint_url"),
        *("max_attempts", "max_concurrency", "max_pool_connections", "mode", "profile", "project", "read_timeout"),
        *("region_name", "requester_pays", "signature_version", "use_ssl", "verify"),
    }
)


def redact(name: str, value: Any) -> Any:
    """A storage option as it may be printed: `***` where it may be a secret."""
    if isinstance(value, dict):
        return {inner: redact(inner, of_inner) for inner, of_inner in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if name not in _PUBLIC_OPTIONS:
        return "***"
    return re.sub(r"//[^/@]*@", "//***@", value) if isinstance(value, str) else value
