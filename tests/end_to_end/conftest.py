"""One Ray for all end-to-end tests, and the main job as a function."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jobs import annotate as job
from pipeline.config.models import load_config

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


@pytest.fixture(scope="session")
def local_ray():
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as jobs/ray_cluster.py does for a cluster of its own
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_bundle(weights, tmp_path_factory):
    """The bundle of the small published weights, with full paths, beside its factories."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copy(BUNDLES / "shared_models.py", folder)
    bundle = yaml.safe_load((BUNDLES / "shared.yaml").read_text())
    for entry in bundle["models"].values():
        entry["weights"] = str(weights / Path(entry["weights"]).name)
    (folder / "shared.yaml").write_text(yaml.safe_dump(bundle))
    return str(folder / "shared.yaml")


@pytest.fixture(scope="session")
def annotate(local_ray):
    """The main job: annotate(corpus, out, bundle, 'a.b=c', ...) -> Report."""

    def run(corpus, out, bundle, *assignments):
        # logical GPUs are there for the tests of pools; all others run on the CPU
        gpus = [] if any("pools" in a or "gpus" in a for a in assignments) else ["actors.gpus=0"]
        return job.run(str(corpus), str(out), bundle, load_config(None, [*gpus, *assignments], {}))

    return run


@pytest.fixture(scope="session")
def command():
    """The command line in a process of its own: exit code, output, seconds, and which heavy packages it loaded."""
    program = (
        "import sys\nfrom jobs.cli import app\ntry:\n    app(sys.argv[1:])\nfinally:\n"
        "    print('LOADED', [name for name in ('ray', 'torch') if name in sys.modules], file=sys.stderr)"
    )

    def run(*arguments):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, time.monotonic() - begun

    return run
