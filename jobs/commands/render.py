"""`faceatlas render CLIP OUT -o annotated.mp4`: a clip with its annotations drawn on it."""

from typing import Annotated

import typer
from rich.console import Console

from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.models import load_config
from pipeline.report.render_video import render_clip

console = Console(highlight=False, soft_wrap=True, markup=False)


def render(
    clip: Annotated[str, typer.Argument(help="Id, key or uri of a clip that is done; of a local file also its path.")],
    out: OutArgument,
    to: Annotated[str, typer.Option("-o", "--to", help="The video, a local .mp4 or .mkv file.")] = "annotated.mp4",
    codec: Annotated[str, typer.Option(help="FFmpeg's name of the encoder.")] = "libx264",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Draw boxes, landmarks, pose axes, gaze and names on a clip's video.

    Example: faceatlas render interview_01 out/ -o annotated.mp4
    """
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        frames = max(render_clip(out, clip, to, codec, options), default=0)
    console.print(f"{to}: {frames} frames")
    raise typer.Exit(0 if frames else 1)
