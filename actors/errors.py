"""The errors of the models; their root is that of all errors of Faceatlas (pipeline/errors.py).

    ModelError
    ├── BundleError               a bundle names what does not exist, or does not fit together
    └── WeightsError              a weight file cannot be read
        ├── MissingWeightsError   the file is not there
        │   └── UnreachableError  nor can it be said whether it is: the hub does not answer
        ├── DigestError           it holds other bytes than are on record
        └── StateDictError        it was read, but its tensors are not those of the network

Every class takes its message alone, so that it survives pickling between Ray workers.
"""

from pipeline.errors import FaceatlasError


class ModelError(FaceatlasError):
    """Base of all errors that the models raise on purpose."""


class BundleError(ModelError):
    """A bundle cannot be put together as it is written."""


class WeightsError(ModelError):
    """A weight file cannot be read; the message names the file and says why."""


class MissingWeightsError(WeightsError):
    """A weight file is not there; the message names the path that was tried."""


class UnreachableError(MissingWeightsError):
    """The hub does not answer, so that no file can be had from it."""


class DigestError(WeightsError):
    """A weight file holds other bytes than are on record; the message names the file and both digests."""


class StateDictError(WeightsError):
    """Tensors and network differ; the message lists missing and unexpected keys and wrong shapes."""
