"""Versions of what is not a model: which frames are decoded, and how tracks and identities are made."""

import hashlib
import json
from typing import Any

from pipeline.config.models import DecodeConfig

DECODE_ALGORITHM = 1  # raised when decoding gives other pixels, indices or times


def digest(*content: Any) -> str:
    """12 hex digits of BLAKE2b over plain values."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def clips_version(decode: DecodeConfig) -> str:
    """Version of `clips` and `quarantine`; every model's version depends on it. Chunk sizes do not enter."""
    return digest("decode", DECODE_ALGORITHM, decode.every, decode.fps, decode.max_pixels)
