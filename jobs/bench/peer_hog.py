"""The reference's side of `jobs.bench hog`: run by a Python that has py-feat 2.0.3, not by ours.

    python peer_hog.py CROPS.npz WEIGHTS.skops FACES THREADS OUT.npz

Makes stand-in weights first if WEIGHTS does not exist (the published ones were not available): three PCAs of 1000
components and 20 boosters of 120 trees of depth 6. Then waits for lines on standard input; after each it does
`extract_hog_features_batched` and `detect_au` once and writes the seconds of both, wall and CPU, as JSON. At the end of
the input it stores what came out.
"""

# ruff: noqa: E402
import json
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import feat.detector  # before torch: it wants xgboost's OpenMP first
import numpy as np
import skops.io
import torch
from feat.utils.face_mask import extract_hog_features_batched
from feat.utils.image_operations import HOGLayer


def make_weights(path: Path, components: int = 1000, trees: int = 120) -> None:
    """Stand-ins of about the published sizes; a tree sees a twentieth of the columns, to be made in a minute."""
    import xgboost
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng, rows = np.random.default_rng(0), 400
    scaler, pca = StandardScaler(), PCA(8)
    x = rng.gamma(1.0, 0.08, (rows, 5408)).astype("f")
    pca.fit(scaler.fit_transform(x))
    pca.components_ = rng.normal(0, 0.02, (components, 5408))
    pca.n_components_, pca.explained_variance_ = components, np.ones(components)
    features = np.concatenate([pca.transform(scaler.transform(x)), rng.integers(0, 112, (rows, 136))], 1)
    wrapper = feat.detector.XGBClassifier()
    boosters = {
        key: xgboost.XGBClassifier(n_estimators=trees, max_depth=6, colsample_bytree=0.05).fit(
            features, rng.integers(0, 2, rows)
        )
        for key in wrapper.au_keys
    }
    wrapper.load_weights(scaler, pca, scaler, pca, scaler, pca, boosters)
    skops.io.dump(wrapper, path)


def main(crops_file: str, weights: str, faces: str, threads: str, out: str) -> None:
    """See the module's docstring."""
    torch.set_num_threads(int(threads))
    if not Path(weights).exists():
        make_weights(Path(weights))
    classifiers = skops.io.load(weights, trusted=skops.io.get_untrusted_types(file=weights))
    stored = np.load(crops_file)
    pick = np.arange(int(faces)) % len(stored["crops"])
    crops = torch.from_numpy(stored["crops"][pick].astype(np.float32) / np.float32(255))
    landmarks = torch.from_numpy(stored["landmarks"][pick])
    layer = HOGLayer(
        orientations=8,
        pixels_per_cell=8,
        cells_per_block=2,
        block_normalization="L2-Hys",
        feature_vector=True,
        device="cpu",
    )
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        features, aligned = extract_hog_features_batched(crops, landmarks, hog_layer=layer)
        hog_wall, hog_cpu = time.perf_counter() - wall, time.process_time() - cpu
        answers = classifiers.detect_au(frame=features, landmarks=[aligned])
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**taken, "hog_wall": hog_wall, "hog_cpu": hog_cpu}), flush=True)
    np.savez(out, features=features, answers=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
