"""A cluster that Faceatlas starts: what it offers, and to whom; and pools that do not fit a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.models import PoolConfig, load_config
from pipeline.errors import ConfigError
from pipeline.planning.pools import fit_pools

PROJECT = Path(__file__).resolve().parents[2]

START = """
import sys
from jobs.ray_cluster import start_ray
from pipeline.config.models import load_config
start_ray(load_config(None, ["ray.num_cpus=2", "decode.resources={decode: 1}", "actors.resources={annotate: 1}"], {}))
import ray
found = ray.cluster_resources()
print("UP", ray.get_runtime_context().gcs_address, int(found["decode"]), int(found["annotate"]), flush=True)
sys.stdin.readline()
"""
JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('IN', len(ray.nodes()))"


def python(code, *arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(PROJECT), **options.pop("env", {})}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, **pipes)


def test_a_cluster_of_our_own_offers_the_custom_resources_and_lets_nobody_in_without_its_token(tmp_path):
    with python(START, env={"HOME": str(tmp_path)}) as cluster:
        line = next(line for line in cluster.stdout if line.startswith("UP "))
        _, address, decode, annotate = line.split()
        assert (decode, annotate) == ("2", "1")
        with python(JOIN, address, env={"RAY_AUTH_MODE": "disabled"}) as stranger:
            out, _ = stranger.communicate(timeout=120)
        assert stranger.returncode != 0
        assert "IN" not in out
        cluster.communicate("\n", timeout=60)
    assert not (tmp_path / ".ray").exists()  # the token is in no file of the user


@pytest.mark.parametrize(("size", "words"), [(3, "need 3 of the resource 'annotate'"), (2, None)])
def test_pools_that_want_more_of_a_resource_than_there_is_are_refused(size, words):
    pools = [PoolConfig(size=size, resources={"annotate": 1})]
    resources = {"CPU": 16, "annotate": 2}
    if words is None:
        assert fit_pools(pools, resources, 3)[0].size == size
        return
    with pytest.raises(ConfigError, match=words):
        fit_pools(pools, resources, 3)


def test_a_pool_on_cpus_is_as_large_as_its_resource_allows():
    assert fit_pools([PoolConfig(resources={"annotate": 1})], {"CPU": 64, "annotate": 2}, 5)[0].size == 2
    assert fit_pools([PoolConfig()], {"CPU": 64, "annotate": 2}, 5)[0].size == 5


def test_resources_belong_to_the_pools_where_there_are_some():
    with pytest.raises(ConfigError, match="belong to each pool"):
        load_config(None, ["actors={resources: {a: 1}, pools: [{size: 1}]}"], {})
