"""Time of our batched post-processing and the reference's, in turns on the same input; the outputs are compared.

python -m jobs.bench hog --peer-python /path/to/venv/bin/python --crops hog.npz --faces 256 --json
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from actors.models.action_units import build_xgb
from actors.ops.hog import HogFeatures, hog_features


def hog(
    peer_python: Annotated[Path, typer.Option(help="Python with py-feat 2.0.3.")],
    crops: Annotated[Path, typer.Option(help="npz: crops uint8 (n, 3, 112, 112), landmarks (n, 136) in 0..1.")],
    weights: Annotated[Path | None, typer.Option(help="xgb skops file; stand-ins are made if it is not there.")] = None,
    faces: Annotated[int, typer.Option(min=1, help="Faces per call; those of the file are repeated.")] = 256,
    turns: Annotated[int, typer.Option(min=1, help="Calls of each, in turns, after one each that does not count.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """HOG features and 20 action units of many faces at once."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        file = weights or Path(folder) / "xgb_au_classifier_v2.skops"
        theirs_file = Path(folder) / "theirs.npz"
        script = Path(__file__).with_name("peer_hog.py")
        command = [peer_python, script, crops, file, faces, threads, theirs_file]
        with subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as peer:
            if "ready" not in _answer(peer):
                raise typer.Exit(1)
            run = _Ours(crops, file, faces)
            taken: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
            for turn in range(turns + 1):
                times, features, answers = run()
                peer.stdin.write("\n")  # type: ignore[union-attr]
                peer.stdin.flush()  # type: ignore[union-attr]
                theirs = _answer(peer)
                if turn:
                    taken["ours"].append(times)
                    taken["theirs"].append(theirs)
            peer.stdin.close()  # type: ignore[union-attr]
            peer.wait()
        reference = np.load(theirs_file)
        given = HogFeatures(torch.from_numpy(reference["features"]), features.landmarks_N136)
        on_given = run.classify(given).numpy()
    report: dict[str, Any] = {"faces": faces, "threads": threads, "turns": turns}
    for who, rows in taken.items():
        report[who] = {key: round(float(np.median([row[key] for row in rows])), 4) for key in rows[0]}
    report["times_as_fast"] = {
        clock: round(report["theirs"][clock] / report["ours"][clock], 2) for clock in ("wall", "cpu")
    }
    off = np.abs(features.features_N5408.numpy() - reference["features"])
    end_to_end, same_features = np.abs(answers - reference["answers"]), np.abs(on_given - reference["answers"])
    report["hog_largest_difference"] = float(off.max())
    report["hog_share_within_1e-5"] = float((off <= 1e-5).mean())
    report["au_largest_difference_on_the_same_features"] = float(same_features.max())
    report["au_share_within_1e-3_end_to_end"] = float((end_to_end <= 1e-3).mean())
    print(json.dumps(report) if as_json else "\n".join(f"{key}: {value}" for key, value in report.items()))


class _Ours:
    """Our side: one call does all, and says how long it took."""

    def __init__(self, crops: Path, weights: Path, faces: int) -> None:
        self.classify = build_xgb({"weights": weights})
        stored = np.load(crops)
        pick = np.arange(faces) % len(stored["crops"])
        self.crops = torch.from_numpy(stored["crops"][pick].astype(np.float32) / np.float32(255))
        self.landmarks = torch.from_numpy(stored["landmarks"][pick]).unflatten(1, (68, 2)) * 112

    @torch.inference_mode()
    def __call__(self) -> tuple[dict[str, float], HogFeatures, np.ndarray]:
        wall, cpu = time.perf_counter(), time.process_time()
        features = hog_features(self.crops, self.landmarks)
        hog_wall, hog_cpu = time.perf_counter() - wall, time.process_time() - cpu
        answers = self.classify(features).numpy()
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return {**taken, "hog_wall": hog_wall, "hog_cpu": hog_cpu}, features, answers


def _answer(peer: subprocess.Popen) -> dict[str, Any]:
    line = peer.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise RuntimeError("the reference's process ended early; its error is above")
    return json.loads(line)
