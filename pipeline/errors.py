"""The errors of Faceatlas.

    FaceatlasError                    every error raised on purpose
    ├── ConfigError                   a setting is wrong: the run stops before anything starts
    │   └── ManifestError             a manifest line is wrong: names the line and the column
    ├── OutputError                   the output folder cannot be used, or its totals do not add up
    │   └── LeaseError                another run holds the output, or has taken it over
    ├── ClipError                     a fault of one clip: becomes a row in `quarantine`, never leaves its task
    ├── StoppedError                  the run was told to stop; what was committed stays
    └── ModelError                    models and weights, in actors/errors.py
        ├── BundleError               a bundle names what does not exist, or does not fit together
        └── WeightsError              a weight file cannot be read
            ├── MissingWeightsError   the file does not exist
            │   └── UnreachableError  the hub does not answer, so it is unknown whether the file exists
            ├── DigestError           checksum mismatch
            └── StateDictError        the tensors of the file are not those of the network

Every class takes its message alone, so that it survives pickling between Ray workers.
"""

#: error class of clips that failed by a bug in Faceatlas; the next run retries them
UNEXPECTED = "unexpected"
#: error class of clips whose storage did not answer or disconnected, after all retries; the next run retries them
UNREACHABLE = "unreachable"
#: error class of clips without read permission: rights and credentials may be fixed without changing the bytes
NO_ACCESS = "no_access"
RETRYABLE = frozenset({UNEXPECTED, UNREACHABLE, NO_ACCESS})


class FaceatlasError(Exception):
    """Base of all errors that Faceatlas raises on purpose."""


class ConfigError(FaceatlasError):
    """A setting is wrong; nothing has been started."""


class ManifestError(ConfigError):
    """A manifest is wrong; the message names the line and the column."""


class OutputError(FaceatlasError):
    """The output cannot be read or written, or its totals do not add up."""


class LeaseError(OutputError):
    """Another run holds the output, or has taken it over; the message says who."""


class StoppedError(FaceatlasError):
    """The run was told to stop, and ends at once. What was committed stays."""


class ClipError(FaceatlasError):
    """A clip cannot be used. `error_class` is a stable word for tables, the message is for people."""

    error_class = "clip_error"

    def __init__(self, message: str, error_class: str | None = None) -> None:
        super().__init__(message)
        if error_class is not None:
            self.error_class = error_class

    def __reduce__(self) -> tuple[type["ClipError"], tuple[str, str]]:
        """Keep `error_class` through pickling."""
        return type(self), (str(self), self.error_class)
