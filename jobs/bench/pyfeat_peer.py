"""Time py-feat's Detectorv1 on a video; `python -m jobs.bench peer` runs this with py-feat's Python.

    PYTHON jobs/bench/pyfeat_peer.py VIDEO --weights STANDINS [--every 4] [--batch 8] [--threads 2]

STANDINS is the folder of `python -m jobs.bench standins`: both sides read the same weight files. One box per frame
replaces what the face network finds, as in `jobs.bench.standins.FixedFaces`, so that every model runs on every frame.
The last line of the output is JSON: `frames`, `seconds`, `frames_per_s` and what was run.
`python tests/parity/make_reference.py --venv FOLDER --out FOLDER` makes an environment with py-feat.

This file imports nothing of Faceatlas: py-feat's environment does not have it.
"""

import feat.detector as reference  # first, as py-feat wants it: xgboost's OpenMP before torch's

# ruff: isort: split
import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import feat.utils
import huggingface_hub
import torch

#: files that py-feat reads and Faceatlas does not: repository, name -> content
_SMALL_FILES = {("py-feat/resmasknet", "config.json"): {"in_channels": 3, "num_classes": 7}}
#: the box of jobs.bench.standins.FixedFaces, x1 y1 x2 y2 as shares of the frame
_BOX = (0.3, 0.2, 0.9, 1.0)


class OneBox:
    """A face detector that runs in full and answers one fixed box per frame."""

    def __init__(self, detector: Callable[[torch.Tensor], object]) -> None:
        self.detector = detector

    def __call__(self, frames: torch.Tensor) -> list[list[list[float]]]:
        """Per frame of uint8 or float (B, 3, H, W) one face: x1, y1, x2, y2 px and score."""
        self.detector(frames)
        height, width = frames.shape[-2:]
        x1, y1, x2, y2 = _BOX
        return [[[x1 * width, y1 * height, x2 * width, y2 * height, 0.99]] for _ in frames]


def serve_weights(weights: Path, small: Path) -> None:
    """Let py-feat take its files from `weights`, laid out like the hub, instead of from the network."""
    for (repository, name), content in _SMALL_FILES.items():
        path = small / repository / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    def local(repo_id: str, filename: str, *_: object, **__: object) -> str:
        for folder in (weights, small):
            if (path := folder / repo_id / filename).exists():
                return str(path)
        raise SystemExit(
            f"{weights} has no {repo_id}/{filename}; make it with `python -m jobs.bench standins {weights}`"
        )

    modules: list[Any] = [huggingface_hub, reference]
    for module in modules:
        module.hf_hub_download = local
    reference.hf_hub_download_with_fallback = feat.utils.hf_hub_download_with_fallback = local


def main() -> None:
    """Load py-feat with the weights, time one call of `detect`, print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--weights", type=Path, required=True, help="folder of `python -m jobs.bench standins`")
    parser.add_argument("--every", type=int, default=4, help="take every k-th frame")
    parser.add_argument("--batch", type=int, default=8, help="frames")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as small:
        serve_weights(options.weights, Path(small))
        detector = reference.Detectorv1(device="cpu")
        detector.facepose_detector = OneBox(detector.facepose_detector)
        asked = {"data_type": "video", "batch_size": options.batch, "skip_frames": options.every}
        started = time.perf_counter()  # `peer --clock cpu` replaces this clock
        rows = len(detector.detect(options.video, **asked, progress_bar=False))
        seconds = time.perf_counter() - started
    answer = {"peer": f"py-feat {version('py-feat')}", "torch": version("torch"), "batch": options.batch}
    answer |= {"threads": options.threads, "frames": rows, "seconds": round(seconds, 2)}
    print(json.dumps(answer | {"frames_per_s": round(rows / seconds, 3)}))


if __name__ == "__main__":
    main()
