"""Time of img2pose's post-processing (poses, boxes, suppression), and of the reference's loop.

    python -m jobs.bench img2pose --peer-python PATH --json

Both get the same made proposals, on the CPU with one thread, and take turns; the reference runs in a Python of its own
in which py-feat is installed. What they find is compared. No weights and no frames are needed.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from actors.models import Detections
from actors.models.img2pose import Img2PoseConfig, faces_of, place_candidates, read_config, resized_size

_FRAME_SIZE = (720, 1280)
_THRESHOLD = 0.5
_OURS_PER_TURN = 20  # one run of ours is too short for the clock's neighbors: the median of some is a turn's figure

#: the reference's own functions on the same input: once per line that it is sent; times go to stdout, results to a file
_PEER = """
import json, sys, time
import numpy as np, torch, torchvision
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from feat.facepose_detectors.img2pose.deps.models import DOFRoIHeads, postprocess_img2pose

torch.set_num_threads(1)
given = np.load(sys.argv[1])
rois, logits, dofs = (torch.from_numpy(given[k]) for k in ("rois", "logits", "dofs"))
config = json.loads(str(given["config"]))
size, frame_size = tuple(given["size"].tolist()), tuple(given["frame_size"].tolist())
heads = DOFRoIHeads(
    MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2), None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 1000, 256,
    pose_mean=torch.tensor(config["pose_mean"]), pose_stddev=torch.tensor(config["pose_stddev"]),
    threed_68_points=torch.tensor(config["threed_points"]), bbox_x_factor=config["bbox_x_factor"],
    bbox_y_factor=config["bbox_y_factor"], expand_forehead=config["expand_forehead"],
).eval()
transform = GeneralizedRCNNTransform(config["min_size"], config["max_size"], [0] * 3, [1] * 3).eval()
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}), flush=True)
for line in sys.stdin:
    with torch.inference_mode():
        begin = time.perf_counter()
        boxes, poses, scores, labels = heads.postprocess_detections(logits, dofs, [rois[:, 1:]], [size])
        result = [{"boxes": boxes[0], "labels": labels[0], "scores": scores[0], "dofs": poses[0]}]
        found = postprocess_img2pose(
            transform.postprocess(result, [size], [frame_size])[0], detection_threshold=float(given["threshold"]))
        seconds = time.perf_counter() - begin
    np.savez(sys.argv[2], **{k: v.numpy() for k, v in found.items()})
    print(json.dumps(seconds), flush=True)
"""


def made_config() -> Img2PoseConfig:
    """The published numbers with a reference face of 68 made points."""
    turn = np.arange(68) * 2.399963  # golden angle: spreads them over the front half of an ellipsoid
    depth = np.linspace(0.05, 1, 68)
    side = np.sqrt(1 - depth**2 * 0.9)
    points = np.stack([0.75 * side * np.cos(turn), 0.75 * side * np.sin(turn), -0.5 * depth + 0.2], axis=1)
    return Img2PoseConfig(
        min_size=400,
        max_size=1400,
        pose_mean=(-0.0238, 0.0275, -0.0144, 0.0664, 0.2380, 3.4813),
        pose_stddev=(0.2353, 0.5395, 0.1767, 0.1320, 0.1358, 0.3663),
        threed_points=tuple((float(x), float(y), float(z)) for x, y, z in points),
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_test=1000,
        bbox_x_factor=1.1,
        bbox_y_factor=1.1,
        expand_forehead=0.3,
    )


def made_proposals(count: int, size: tuple[int, int], spread: float, seed: int) -> dict[str, torch.Tensor]:
    """Regions of one frame, all of them faces by their scores, in poses that spread like those of training.

    Args:
        count: how many.
        size: rows and columns of the resized frame.
        spread: deviations of the poses; above 3 there are many half turns.
        seed: of the random numbers.

    Returns:
        rois (M, 5), logits (M, 2), dofs (M, 12), float32, as the networks give them.
    """
    rng = np.random.default_rng(seed)
    sides = rng.uniform(16, 160, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(size[::-1]) - sides)
    rois = np.concatenate([np.zeros((count, 1)), corner, corner + sides], axis=1)
    logits = np.stack([np.zeros(count), rng.uniform(0.1, 6, count)], axis=1)
    dofs = rng.normal(0, 1, (count, 12))
    dofs[:, 6:9] *= spread
    arrays = {"rois": rois, "logits": logits, "dofs": dofs}
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in arrays.items()}


def measure_postprocessing(
    count: int = 300,
    turns: int = 5,
    peer_python: str | None = None,
    config: Img2PoseConfig | None = None,
    spread: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Time both on the same proposals, in turn.

    Args:
        count: proposals of one frame.
        turns: how often each is timed.
        peer_python: interpreter with py-feat; None: ours alone.
        config: None: made_config().
        spread: see made_proposals.
        seed: see made_proposals.

    Returns:
        Medians in seconds, all turns, the ratio, and the largest deviations: boxes in px of the resized frame, angles
        in rad, translation relative to its size. `same` says whether the same faces were found within 1 px, 1e-3 rad
        and 1e-3 (a box of whole pixels may fall on the other side of an edge).

    Raises:
        RuntimeError: the other interpreter failed; the message ends with what it said.
    """
    config = config or made_config()
    size = resized_size(*_FRAME_SIZE, config.min_size, config.max_size)
    made = made_proposals(count, size, spread, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _ours(made, size, config)  # the first call of each operator is not the usual one
        if peer_python is None:
            times = [_time_ours(made, size, config) for _ in range(turns)]
            return _result(count, times) | {"faces": len(_ours(made, size, config))}
        return _in_turn(made, size, config, turns, peer_python)
    finally:
        torch.set_num_threads(threads)


def _in_turn(
    made: dict[str, torch.Tensor], size: tuple[int, int], config: Img2PoseConfig, turns: int, peer_python: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "given.npz", Path(folder) / "answer.npz"
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in made.items()}
        arrays |= {"size": size, "frame_size": _FRAME_SIZE, "threshold": _THRESHOLD, "config": config.model_dump_json()}
        np.savez(given, **arrays)
        command = [peer_python, "-c", _PEER, str(given), str(answer)]
        with (
            (Path(folder) / "errors").open("w+") as errors,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as peer,
        ):
            assert peer.stdin is not None
            assert peer.stdout is not None
            ours, theirs = [], []
            try:
                versions = json.loads(peer.stdout.readline())
                for turn in range(turns + 1):
                    print("go", file=peer.stdin, flush=True)
                    seconds = json.loads(peer.stdout.readline())
                    if turn:  # its first run is not the usual one either
                        theirs.append(seconds)
                        ours.append(_time_ours(made, size, config))
            except (OSError, ValueError) as error:
                peer.kill()
                errors.seek(0)
                raise RuntimeError(f"{peer_python} did not answer: {errors.read()[-2000:]}") from error
            peer.stdin.close()
        with np.load(answer) as found:
            compared = compare_faces(_ours(made, size, config), found["boxes"], found["scores"], found["dofs"], size)
    result = _result(len(made["rois"]), ours)
    result |= {"peer_s": statistics.median(theirs), "peer_turns_s": theirs}
    return result | {"ratio": result["peer_s"] / result["ours_s"], "peer": versions} | compared


def compare_faces(
    ours: Detections, boxes: np.ndarray, scores: np.ndarray, dofs: np.ndarray, size: tuple[int, int]
) -> dict[str, Any]:
    """Largest deviations from the reference's faces, in falling score on both sides; NaN if their number differs."""
    result: dict[str, Any] = {"faces": len(ours), "peer_faces": len(boxes)}
    if len(ours) != len(boxes) or ours.poses_N6 is None:
        return result | {"box_px": float("nan"), "angle_rad": float("nan"), "translation": float("nan"), "same": False}
    ratio = np.array(size[::-1]) / np.array(_FRAME_SIZE[::-1])
    box_px = np.abs(ours.boxes_N4.numpy() - boxes).reshape(-1, 2, 2) * ratio
    poses = ours.poses_N6.numpy()
    angles = np.stack([-poses[:, 0], poses[:, 2], -poses[:, 1]], axis=1) - dofs[:, :3]
    angles = np.abs((angles + np.pi) % (2 * np.pi) - np.pi)
    moved = np.abs(poses[:, 3:] - dofs[:, 3:]) / np.linalg.norm(dofs[:, 3:], axis=1, keepdims=True)
    scored = np.abs(ours.scores_N.numpy() - scores)
    result |= {name: float(v.max()) for name, v in (("box_px", box_px), ("angle_rad", angles), ("translation", moved))}
    result["boxes_off"] = int((box_px > 0.01).any((1, 2)).sum())
    result["same"] = bool(box_px.max() < 1.01 and angles.max() < 1e-3 and moved.max() < 1e-3 and scored.max() < 1e-6)
    return result


@torch.inference_mode()
def _ours(made: dict[str, torch.Tensor], size: tuple[int, int], config: Img2PoseConfig) -> Detections:
    found = place_candidates(made["rois"], made["logits"], made["dofs"][:, 6:], size, _FRAME_SIZE, config)
    return faces_of(found, _THRESHOLD)


def _time_ours(made: dict[str, torch.Tensor], size: tuple[int, int], config: Img2PoseConfig) -> float:
    times = []
    for _ in range(_OURS_PER_TURN):
        begin = time.perf_counter()
        _ours(made, size, config)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _result(count: int, times: list[float]) -> dict[str, Any]:
    versions = {"torch": torch.__version__}
    return {"proposals": count, "ours_s": statistics.median(times), "ours_turns_s": times, "ours": versions}


def img2pose(
    proposals: Annotated[int, typer.Option(help="Proposals of one frame.", min=1)] = 300,
    turns: Annotated[int, typer.Option(help="How often each side is timed.", min=1)] = 5,
    peer_python: Annotated[str | None, typer.Option(help="Interpreter in which py-feat is installed.")] = None,
    config: Annotated[Path | None, typer.Option(help="img2pose's config.json; a made face where not given.")] = None,
    spread: Annotated[float, typer.Option(help="Deviations of the rotations; above 3 there are half turns.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Time img2pose's post-processing against the reference's."""
    result = measure_postprocessing(proposals, turns, peer_python, read_config(config) if config else None, spread)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{proposals} proposals, one thread: {result['ours_s'] * 1000:.2f} ms")
    if peer_python:
        print(f"reference: {result['peer_s'] * 1000:.0f} ms, {result['ratio']:.0f} times as long")
        print(f"the same faces: {'yes' if result['same'] else 'no'} ({result['faces']}, boxes off by at most ", end="")
        print(f"{result['box_px']:.2g} px, angles {result['angle_rad']:.2g} rad)")
    if not result.get("same", True):
        raise typer.Exit(1)
