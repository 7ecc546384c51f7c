"""`faceatlas erase OUT`: erase a clip, a source or a person permanently."""

from typing import Annotated

import typer

from jobs.annotate import settings
from jobs.commands.maintain import changing, console
from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.corpus.discover import read_corpus
from pipeline.errors import ConfigError
from pipeline.maintenance.erase import erase_clip, erase_identity, erase_source, find_clip


def erase(
    out: OutArgument,
    clip: Annotated[str | None, typer.Option(help="Id, key or uri of a clip.")] = None,
    source: Annotated[str | None, typer.Option(help="URI of a video or tar shard: all its clips.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="With --source: the corpus, if a run over it is not finished yet.")
    ] = None,
    identity: Annotated[str | None, typer.Option(help="identity_id of a person; the clips stay.")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Erase a clip, a source or a person from every table and version; later runs do not bring them back.

    Examples:
      faceatlas erase out/ --source s3://bucket/videos/a.mp4

      faceatlas erase out/ --identity 0f3a5c7e9b1d2468
    """
    with exit_on_error():
        if sum(value is not None for value in (clip, source, identity)) != 1:
            raise ConfigError("give exactly one of --clip, --source and --identity")
        if corpus is not None and source is None:
            raise ConfigError("--corpus goes with --source")
        with changing(out, config, assignments, "erase") as output:
            if clip is not None:
                audit = erase_clip(output, find_clip(output, clip))
            elif source is not None:
                clips = read_corpus(corpus, settings(config, assignments, None)).clips if corpus else None
                audit = erase_source(output, source, clips)
            else:
                audit = erase_identity(output, identity or "")
    for name, rows in audit["rows"].items():
        console.print(f"  {rows} rows erased from {name}")
    for path, what in audit["documents"].items():
        console.print(f"  {path}: {what}")
    done = "erased" if audit["rows"] else "no table held a row of it; later runs leave it out"
    console.print(f"{done}; see audit/{audit['time']}.json")
