"""python metered_run.py FOLDER: the demo's corpus on a Ray of its own whose metrics are exported.

Decoding and actors ask for custom resources. Prints the port when Ray is up, waits for a line, runs, prints `done`, and
stays until the next line. One clip is marked as if it had killed a worker of an earlier run, so that there is a retry.
"""

import socket
import sys
import zlib
from pathlib import Path

import ray

from jobs import annotate
from jobs.commands import demo
from pipeline.config.models import load_config
from pipeline.corpus.discover import read_corpus
from pipeline.isolation.registry import AttemptRegistry, InFlightMark

SLOTS = "face,landmarks,pose,emotions,embeddings,gaze"  # of the bundle tiny

folder = Path(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
ray.init(
    address="local",
    num_cpus=2,
    resources={"decode": 2, "annotate": 1},
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=300 << 20,
    _metrics_export_port=port,
    _system_config={"metrics_report_interval_ms": 500},
)
demo.make_corpus(str(folder / "corpus"))
settings = ["decode.every=2", "decode.chunk_frames=4", "ray.log_level=debug"]
settings += ["decode.resources={decode: 1}", "actors.resources={annotate: 1}"]
config = load_config(None, settings, {})
clip = read_corpus(str(folder / "corpus"), config).clips.to_pylist()[0]
mark = InFlightMark("decode", clip["clip_id"], clip["fingerprint"], zlib.crc32(SLOTS.encode()))
AttemptRegistry(str(folder / "tables"), snapshot_s=0).died(mark, "killed by signal 9 (SIGKILL) while decoding")
print(port, flush=True)
sys.stdin.readline()
annotate.run(str(folder / "corpus"), str(folder / "tables"), "tiny", config)
print("done", ray.get_runtime_context().get_session_name(), flush=True)
sys.stdin.readline()
ray.shutdown()
