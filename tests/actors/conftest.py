"""Pictures with their truth, and a detector with published weights."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def detector(weights: Path):
    """RetinaFace with its small backbone and its published weights."""
    from actors.models.retinaface import build_retinaface_mnet025

    return build_retinaface_mnet025({"weights": weights / "retinaface_mnet025.safetensors"})


@pytest.fixture(scope="session")
def read_image() -> Callable[[Path], torch.Tensor]:
    """path -> uint8 RGB (1, 3, H, W)."""

    def read(path: Path) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]

    return read


@pytest.fixture(scope="session")
def dlib_faces(data: Path) -> list[tuple[Path, torch.Tensor, torch.Tensor]]:
    """Pictures with the truth: path, boxes (n, 4) left, top, right, bottom, landmarks (n, 68, 2); 43 faces in all."""
    from xml.etree import ElementTree

    pictures = []
    folder = data / "images" / "dlib_faces_68gt"
    for part in ("testing", "training"):
        for image in ElementTree.parse(folder / f"{part}_with_face_landmarks.xml").iter("image"):
            boxes = torch.tensor(
                [[float(box.get(k)) for k in ("left", "top", "width", "height")] for box in image.iter("box")]
            )
            boxes[:, 2:] += boxes[:, :2]
            points = [[[float(p.get("x")), float(p.get("y"))] for p in box.iter("part")] for box in image.iter("box")]
            pictures.append((folder / image.get("file"), boxes, torch.tensor(points)))
    return pictures


@pytest.fixture
def memory():
    """fsspec's storage in memory, emptied afterward: to our code it is remote storage."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
