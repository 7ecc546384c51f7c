"""`faceatlas report OUT`: one self-contained HTML page about runs, people and clips.

The page draws itself from compact JSON with a few hundred lines of script of our own: 20 kB, where plotly's smallest
build takes over 1 MB, and a gallery of 10,000 people then is a page of 60 cards at a time.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any

import fsspec
import typer
from rich.console import Console

from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.models import load_config
from pipeline.errors import OutputError
from pipeline.report.gather import ReportLimits, gather_report

console = Console(highlight=False, soft_wrap=True, markup=False)


def to_page(gathered: Mapping[str, Any]) -> str:
    """The page of what `gather_report` gives."""
    folder = resources.files("jobs") / "page"
    style, timeline, script, page = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.css", "timeline.js", "report.js", "report.html")
    )
    text = json.dumps(gathered, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # so that no name of the corpus can end the element that holds it
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = page.replace("/*STYLE*/", style).replace("/*SCRIPT*/", timeline + script)
    return page.replace("/*DATA*/", text)


def write_report(
    out: str,
    to: str,
    clips: list[str] | None = None,
    with_faces: bool = True,
    limits: ReportLimits | None = None,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Write the page; returns its size in bytes.

    Raises:
        OutputError: `out` holds no tables, or `to` cannot be written.
        ConfigError: no such clip.
    """
    page = to_page(gather_report(out, clips or (), with_faces, limits, options)).encode()
    remote = "://" in to and not to.startswith("file://")
    try:
        with fsspec.open(to, "wb", **(dict(options or {}) if remote else {"auto_mkdir": True})) as file:
            file.write(page)
    except (OSError, ValueError, ImportError) as error:
        raise OutputError(f"cannot write {to}: {error}") from error
    return len(page)


def report(
    out: OutArgument,
    to: Annotated[str, typer.Option("-o", "--to", help="The HTML file, any fsspec URI.")] = "report.html",
    clips: Annotated[
        list[str] | None,
        typer.Option("--clip", help="Id, key or uri of a clip to show over time; may be repeated; default: 3."),
    ] = None,
    no_faces: Annotated[bool, typer.Option("--no-faces", help="No pictures of people.")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="People with a picture, those with most faces.")] = 240,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Write a self-contained HTML report: runs, quarantine, people, timelines of clips, distributions.

    Faces are biometric data, and the page shows them: --no-faces leaves all pictures out.

    Example: faceatlas report out/ -o report.html --clip interview_01
    """
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        size = write_report(out, to, clips, not no_faces, ReportLimits(pictures=pictures), options)
    console.print(f"{to}: {size / 1e6:.1f} MB" + ("" if no_faces else "; it shows faces: share it accordingly"))
