"""Stand-in weights: each tensor is a function of its key and shape alone, so that no weight file is needed."""

import hashlib

import numpy as np


def fill(key: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """The stand-in tensor of a state_dict entry; the same bytes on every machine."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    seed = int.from_bytes(hashlib.sha256(f"{key}|{tuple(shape)}".encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.PCG64(seed))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        values = rng.uniform(0.8, 1.2, shape)
    elif leaf in ("running_mean", "bias"):
        values = rng.normal(0, 0.05, shape)
    elif leaf == "weight" and len(shape) == 1:  # scale of a norm, or slope of a PReLU
        values = rng.uniform(0.8, 1.2, shape) if "relu" not in key else rng.uniform(0.2, 0.3, shape)
    else:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else max(1, shape[0])
        values = rng.normal(0, np.sqrt(0.8 / fan_in), shape)
    return values.astype(dtype)
