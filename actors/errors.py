"""The errors of the models; their root is that of all errors of Faceatlas (pipeline/errors.py).

    ModelError
    ├── BundleError               a bundle names unknown models, or models that do not fit together
    └── WeightsError              a weight file cannot be read
        ├── MissingWeightsError   the file is missing
        │   └── UnreachableError  the hub does not answer, so its files are unavailable
        ├── DigestError           checksum mismatch: the bytes differ from those on record
        └── StateDictError        it was read, but its tensors do not fit the network

Every class takes its message alone, so that it survives pickling between Ray workers.
"""

from pipeline.errors import FaceatlasError


class ModelError(FaceatlasError):
    """Base of all errors that the models raise on purpose."""


class BundleError(ModelError):
    """A bundle is invalid; the message names the slot and the setting."""


class WeightsError(ModelError):
    """A weight file cannot be read; the message names the file and the reason."""


class MissingWeightsError(WeightsError):
    """A weight file is missing; the message names the path that was tried."""


class UnreachableError(MissingWeightsError):
    """The hub does not answer, so its files are unavailable."""


class DigestError(WeightsError):
    """Checksum mismatch of a weight file; the message names the file and both digests."""


class StateDictError(WeightsError):
    """Tensors and network differ; the message lists missing and unexpected keys and wrong shapes."""
