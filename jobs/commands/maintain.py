"""Shared by the commands that maintain an output."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from jobs.annotate import settings
from pipeline.errors import ConfigError
from pipeline.storage import lease
from pipeline.storage.output import Output, open_output
from pipeline.tables import parquet

console = Console(highlight=False, soft_wrap=True)


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`name=value` texts of an option that may be repeated.

    Raises:
        ConfigError: a text without `=`.
    """
    if wrong := [text for text in texts or () if "=" not in text]:
        raise ConfigError(f"{option} {wrong[0]!r}: write it as name=value")
    return {name.strip(): value for name, _, value in (text.partition("=") for text in texts or ())}


def reading(out: str, config: Path | None, assignments: list[str] | None) -> Output:
    """An output that must be there.

    Raises:
        OutputError: it holds no tables.
    """
    output = open_output(out, settings(config, assignments, None).storage.options)
    parquet.require_current(output)
    return output


@contextmanager
def changing(out: str, config: Path | None, assignments: list[str] | None, what: str) -> Iterator[Output]:
    """An output that must be there, under its lease."""
    output = reading(out, config, assignments)
    with lease.hold(output, what, settings(config, assignments, None).lease):
        yield output
