"""What may be shown of the options of storage: they may hold keys and tokens."""

import re
from typing import Any

#: options of storage that are no secrets whatever their value; all others are hidden, known or not
_SHOWN_OPTIONS = frozenset(
    {
        *("addressing_style", "anon", "connect_timeout", "default_block_size", "default_cache_type", "endpoint_url"),
        *("max_attempts", "max_concurrency", "max_pool_connections", "mode", "profile", "project", "read_timeout"),
        *("region_name", "requester_pays", "signature_version", "use_ssl", "verify"),
    }
)


def shown(name: str, value: Any) -> Any:
    """An option of the storage as people may see it."""
    if isinstance(value, dict):
        return {inner: shown(inner, of_inner) for inner, of_inner in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if name not in _SHOWN_OPTIONS:
        return "***"
    return re.sub(r"//[^/@]*@", "//***@", value) if isinstance(value, str) else value
