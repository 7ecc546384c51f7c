"""What the tasks of a run must know."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.models import Config
from pipeline.storage.output import Output, open_output


@dataclass(frozen=True)
class Job:
    """What the tasks of a run must know.

    Attributes:
        out: output folder.
        config: the run's configuration.
        versions: slot -> version.
        run: its name, for logs.
    """

    out: str
    config: Config
    versions: Mapping[str, str]
    run: str = ""

    def open(self) -> Output:
        """The output, opened in this process."""
        return open_output(self.out, self.config.storage.options)
