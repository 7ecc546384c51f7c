"""`python -m jobs.bench`: measurements, each a command of its own."""

import typer

from jobs import bench_speed

app = typer.Typer(help="Measure Faceatlas on this machine.", no_args_is_help=True, pretty_exceptions_enable=False)
for command in (bench_speed.decode, bench_speed.actor, bench_speed.models, bench_speed.loop, bench_speed.pipeline):
    app.command()(command)


if __name__ == "__main__":
    app()
