"""`ray submit` starts this on the head: the command `faceatlas annotate` on the cluster's custom resources."""

import os

import typer

from jobs.annotate import annotate

os.environ.setdefault("RAY_ADDRESS", "auto")
os.environ.setdefault("FACEATLAS__DECODE__RESOURCES", "{decode: 1}")
os.environ.setdefault("FACEATLAS__ACTORS__RESOURCES", "{annotate: 1}")
os.environ.setdefault("FACEATLAS__ACTORS__GPUS", "1")

if __name__ == "__main__":
    typer.run(annotate)
