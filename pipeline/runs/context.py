"""The facts of a run that its tasks must know."""

from dataclasses import dataclass

from pipeline.config.models import Config
from pipeline.planning.versions import SlotVersions, TableVersions, clips_version, tables_of
from pipeline.storage.output import Output, open_output


@dataclass(frozen=True)
class RunContext:
    """What every step of a run must know; it travels to the workers.

    Attributes:
        out: output folder, any fsspec URI.
        config: the run's configuration.
        slots: versions of the models.
        tables: versions of the tables that the run fills.
        run: its name, for logs and its record.
    """

    out: str
    config: Config
    slots: SlotVersions
    tables: TableVersions
    run: str = ""

    @classmethod
    def of(cls, out: str, config: Config, slots: SlotVersions, run: str = "") -> "RunContext":
        """The context of models under a configuration: the versions of the tables follow from both."""
        return cls(out, config, slots, tables_of(slots, clips_version(config.decode)), run)

    def open(self) -> Output:
        """The output, opened in this process."""
        return open_output(self.out, self.config.storage.options)
