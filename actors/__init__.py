"""Models, their weights, and the operations between them on the device.

Nothing here imports Ray, so every model can be used without a cluster; `FaceAnalyzer` does so for a few files.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.analyzer import FaceAnalyzer

__all__ = ["FaceAnalyzer"]


def __getattr__(name: str) -> Any:
    """`FaceAnalyzer`, imported on first use: it needs torch, which not all of `actors` does."""
    if name == "FaceAnalyzer":
        from actors.analyzer import FaceAnalyzer

        return FaceAnalyzer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
