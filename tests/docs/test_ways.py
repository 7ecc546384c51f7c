"""docs/architecture.md lists a frame's way and a track's, and the folders: as the code is, and as a tracer sees it."""

import ast
import re
import sys
import tarfile
import threading
from contextlib import contextmanager

import av
import numpy as np
import pyarrow as pa
import pytest
from documents import PROJECT
from skimage.data import astronaut

from actors.runtime.settings import AnnotatorSettings
from jobs import annotate as job
from jobs.ray_cluster import make_annotator
from pipeline.config.models import PoolConfig, load_config
from pipeline.converge import plan_run
from pipeline.corpus.discover import read_corpus
from pipeline.identity import snapshot
from pipeline.identity.version import aggregate_version
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.planning.versions import tables_of
from pipeline.runs.context import RunContext
from pipeline.runs.model import Stage
from pipeline.schema import CLIPS, slot_schema
from pipeline.stages.annotate import IsolatedAnnotator
from pipeline.stages.decode import decode_packed, pack_work
from pipeline.stages.write import commit_chunks
from pipeline.storage.output import open_output
from pipeline.tables import parquet
from pipeline.tables.shard_file import write_shard

TEXT = (PROJECT / "docs" / "architecture.md").read_text()
WAYS = {
    title: re.findall(r"^\d+\. `([\w/.]+)`: `([\w.]+)`", TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0], re.M)
    for title in ("A frame's way", "A track's way")
}


def names_of(path):
    """Functions and classes of a module, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("title", WAYS)
def test_a_way_names_each_file_once_and_functions_that_exist(title):
    steps = WAYS[title]
    files = [file for file, _ in steps]
    assert len(steps) >= 5
    assert len(files) == len(set(files))
    missing = [f"{file}: {name}" for file, name in steps if name not in names_of(PROJECT / file)]
    assert not missing


def test_the_table_of_folders_has_every_folder():
    listed = set(re.findall(r"`((?:pipeline|actors)/\w+)/`", TEXT.partition("## Folders")[2].partition("\n## ")[0]))
    there = {
        f"{p.parent.relative_to(PROJECT)}"
        for name in ("pipeline", "actors")
        for p in (PROJECT / name).glob("*/__init__.py")
    }
    assert listed == there


def documented(title):
    """(file, functions) of each numbered line of a section, in order; files and folders beside the way."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    way, beside = section.split("Beside the way:")
    lines = re.findall(r"^\d+\. `([^`]+)`: (.*)$", way, re.MULTILINE)
    return [(file, re.findall(r"`([^`]+)`", functions)) for file, functions in lines], re.findall(
        r"`([^`]+/.*?)`", beside
    )


@contextmanager
def traced():
    """Our functions that run in the body, as file -> names, in the order of their first calls."""
    entered = {}

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{PROJECT}/"):
            file = code.co_filename.removeprefix(f"{PROJECT}/")
            if file.split("/")[0] in ("pipeline", "actors"):
                entered.setdefault((file, code.co_qualname))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def check(title, entered, most):
    way, beside = documented(title)
    files = [file for file, _ in way]
    assert 0 < len(files) <= most
    assert len(set(files)) == len(files)
    listed = [(file, name) for file, names in way for name in names]
    assert [pair for pair in listed if pair not in entered] == []
    order = [file for file, name in entered if (file, name) in listed]
    assert list(dict.fromkeys(order)) == files  # each is entered after those before it
    known = (*files, *(name for name in beside if name.endswith("/")))
    others = {file for file, _ in entered if not file.startswith(known)}
    assert others == {name for name in beside if not name.endswith("/")}


@pytest.fixture
def portrait(tmp_path):
    """A folder with a tar of one video of one face."""
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 512
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(astronaut(), "rgb24")))
        out.mux(stream.encode(None))
    (tmp_path / "corpus").mkdir()
    with tarfile.open(tmp_path / "corpus/shard.tar", "w") as tar:
        tar.add(tmp_path / "a.mp4", "a.mp4")
    return tmp_path / "corpus"


def test_a_frame_s_way(portrait, tmp_path):
    out, config, bundle = (
        str(tmp_path / "out"),
        load_config(None, [], {}),
        job.resolve("tiny", load_config(None, [], {})),
    )
    annotation = job.wanted_of(bundle)
    work = plan_run(read_corpus(str(portrait), config), out, annotation, config).work
    context = RunContext.of(out, config, annotation.versions)
    registry = RegistryClient(AttemptRegistry(out, snapshot_s=0))
    arguments = {"models": list(bundle.models), "settings": AnnotatorSettings(device="cpu", threads=1)}
    annotate = IsolatedAnnotator(
        Stage(make_annotator, arguments, PoolConfig(), tuple(annotation.versions)), registry, config.faults
    )
    packed = pa.Table.from_pylist(pack_work(work, 1))
    with traced() as entered:
        chunks = list(decode_packed(packed, context, registry))
        accounts = commit_chunks(annotate(pa.concat_tables(chunks)), context)
    assert sum(accounts["faces"].to_pylist()) == 4
    check("A frame's way", entered, 14)


def test_a_track_s_way(tmp_path):
    output, slots = open_output(str(tmp_path)), {"face": "f1", "embeddings": "e1"}
    keys = [{"clip_id": "a" * 16, "frame": frame, "face": face} for frame in range(10) for face in range(2)]
    boxes = [
        {**key, "time": 0.0, "score": 0.99, "box_y1": 10.0, "box_y2": 200.0}
        | {"box_x1": 10.0 + 300 * key["face"], "box_x2": 200.0 + 300 * key["face"]}
        for key in keys
    ]
    looks = [{**key, "embedding": np.eye(512, dtype=np.float32)[key["face"]]} for key in keys]
    chunk = {"clip_id": "a" * 16, "first": 0, "count": 10, "faces": 20, "last": True, "fingerprint": "x"}
    ledger = pa.Table.from_pylist([chunk], schema=parquet.LEDGER)
    for slot, table, rows in (("face", "faces", boxes), ("embeddings", "embeddings", looks)):
        parquet.write_chunk_file(
            output, table, slots[slot], "s", pa.Table.from_pylist(rows, schema=slot_schema(slot)), ledger
        )
    clip = dict.fromkeys(CLIPS.names) | {"clip_id": "a" * 16, "status": "done", "fingerprint": "x", "uri": "memory://x"}
    clip |= {"shard": "s", "frames": 10, "sampled": 10, "faces": 20}
    write_shard(output, "clips", "c1", "s", pa.Table.from_pylist([clip], schema=CLIPS))
    context = RunContext(output.root, load_config(None, [], {}), slots, tables_of(slots, "c1"))
    with traced() as entered:
        made = snapshot.aggregate(context, aggregate_version(context, 0.3), 0.3, lambda: None)
    assert made == (2, 2)
    check("A track's way", entered, 9)
