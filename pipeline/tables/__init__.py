"""The Parquet files of an output: written whole or not at all, with a ledger of chunks in the footer.

In: Arrow tables and the intervals they cover. Out: files under `<table>/version=<v>/shard=<s>/`, and Arrow tables back.
"""
