"""The modules of these tests by their names, as test modules are no package."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "look")]
