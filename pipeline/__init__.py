"""The way of the data: sources, decoding, the flow on Ray Data, tables, tracks and identities. Never imports torch."""

from pipeline.tables.parquet import read_table

__all__ = ["read_table"]
