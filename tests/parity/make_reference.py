"""Make `reference/`: what py-feat answers to two public-domain portraits with stand-in weights.

    python tests/parity/make_reference.py [--venv FOLDER] [--out FOLDER]

Creates a virtual environment, installs py-feat and the versions below, and runs `pyfeat_answers.py` in it. Nothing is
downloaded but these packages: no weights, no pictures. The environment takes 7 GB, the answers a minute.
PyTorch's video decoder (torchcodec) needs the shared libraries of FFmpeg 4 to 8, on Debian `apt-get install ffmpeg`.

The Detectorv1 of py-feat 2.1.5 is that of 2.0.3, file by file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent

PACKAGES = (
    "py-feat==2.1.5",
    "torch==2.14.1",
    "torchvision==0.29.2",
    "torchcodec==0.17.0",
    "numpy==2.3.5",  # with 2.4, HDBSCAN of scikit-learn 1.9.1 fails on clips of one person
    "scipy==1.17.1",
    "scikit-learn==1.9.1",
    "scikit-image==0.26.0",  # computes the hull's mask; its wheel holds the first portrait
    "matplotlib==3.11.2",  # its wheel holds the second portrait
    "xgboost==3.2.0",
    "skops==0.16.0",
    "pandas==3.1.1",
    "pyarrow==26.0.1",
    "av==18.1.0",  # encodes the clip
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "reference", help="folder that gets the answers")
    parser.add_argument("--venv", type=Path, help="folder of the environment, kept for a next time; default: temporary")
    options = parser.parse_args()
    if options.venv is not None:
        make(options.venv.absolute(), options.out.absolute())
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "venv", options.out.absolute())


def make(environment: Path, out: Path) -> None:
    """Install the packages into an environment, new or there already, and let py-feat write its answers.

    Raises:
        subprocess.CalledProcessError: the installation or the run failed; its output says why.
    """
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    out.mkdir(parents=True, exist_ok=True)
    # no thread count or hub of the caller's; a library that wants to download anything fails at once
    clean = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, HERE / "pyfeat_answers.py", out], check=True, env={**os.environ, **clean})


if __name__ == "__main__":
    sys.exit(main())
