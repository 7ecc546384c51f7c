"""Makes the corpus of the chaos tests and the servers of the storage tests importable."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "storage")]
