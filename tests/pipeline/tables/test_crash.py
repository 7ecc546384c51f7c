"""Kill -9 between any two file operations: nothing lost, nothing doubled, nothing half to be seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()


@pytest.mark.parametrize(("scene", "least"), [("annotate", 35), ("forget", 20), ("end", 40)])
def test_a_writer_may_be_killed_before_any_of_its_file_operations(scene, least, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE.with_name("crash_writer.py")), str(tmp_path), scene],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[3]), "OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= least
