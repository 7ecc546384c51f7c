"""Settings of an actor: plain values, so that a driver without torch can make them and Ray can ship them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: pixels of all frames that go through a detector at once: a few hundred bytes of activations each; on a CPU per thread
BATCH_PIXELS = {"cpu": 1 << 20, "cuda": 64 << 20}
#: faces at once, likewise; on a CPU 64 are no faster than 16 and took 1.5 GB more
BATCH_FACES = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class BatchLimits:
    """Most frames and pixels that go through the detector at once, and faces through a face model."""

    frames: int
    pixels: int
    faces: int

    @property
    def are_least(self) -> bool:
        """Whether nothing is left to halve."""
        return self.frames == self.pixels == self.faces == 1

    def halved(self) -> "BatchLimits":
        """Limits for half of the memory, at least 1 of each."""
        return BatchLimits(*(max(1, limit // 2) for limit in (self.frames, self.pixels, self.faces)))


@dataclass(frozen=True)
class AnnotatorSettings:
    """How an actor runs its models.

    Attributes:
        device: `cpu`, `cuda`, or `auto`: CUDA if the process has one.
        threads: CPU threads; None leaves torch's number, which under Ray is 1. On a CPU each works on frames of its
            own, unless the bundle has a user's model that is not declared `thread_safe`.
        batch_frames: frames of one size that go through the detector at once; this and the next two on a CPU in each
            thread.
        batch_pixels: pixels that go through the detector at once, which bounds its memory; None: BATCH_PIXELS.
        batch_faces: faces that go through a face model at once; None: BATCH_FACES.
        keep_frames: pass the frames on, for a later pool.
        cache: folder for weight files fetched from URIs; None: the user's.
        precision: dtype of all networks: float32, bfloat16 or float16; `auto`: the one that each model's card names.
        storage_options: for fsspec, of weight files in remote storage.
        fold: fold batch norms into the convolutions before them; the same numbers but for rounding, and faster.
        winograd: on a CPU, 3x3 convolutions of float32 networks by Winograd's algorithm, likewise; takes memory.
    """

    device: str = "auto"
    threads: int | None = None
    batch_frames: int = 32
    batch_pixels: int | None = None
    batch_faces: int | None = None
    keep_frames: bool = False
    cache: str | None = None
    precision: str = "auto"
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    fold: bool = True
    winograd: bool = True

    def limits(self, device_type: str) -> BatchLimits:
        """The limits on a kind of device, `cpu` or `cuda`."""
        return BatchLimits(
            frames=self.batch_frames,
            pixels=self.batch_pixels or BATCH_PIXELS[device_type],
            faces=self.batch_faces or BATCH_FACES[device_type],
        )
