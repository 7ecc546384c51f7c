"""An output in forms that other programs read: py-feat's Fex tables, COCO, WebDataset, DuckDB views, dataset cards.

In: the tables of an output, and its videos where crops are wanted. Out: files in a folder of the user's choice.
"""
