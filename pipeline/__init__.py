"""The way of the data: sources, decoding, the flow on Ray Data, tables, tracks and identities. Never imports torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.tables.parquet import read_table

__all__ = ["read_table"]


def __getattr__(name: str) -> Any:
    """`read_table`, imported when it is first used: the errors and settings below need no Arrow."""
    if name == "read_table":
        from pipeline.tables.parquet import read_table

        return read_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
