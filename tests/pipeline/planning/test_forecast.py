"""The arithmetic of forecasts."""

import pytest

from pipeline.config.models import load_config
from pipeline.decode.probe import Probed
from pipeline.planning.forecast import Amount, Cluster, Measured, Step, after_trial, against, forecast

PROBED = Probed(
    clips=100, shards=5, probed=10, unreadable=1, frames=900.0, seconds=30.0, megapixels=900.0, frame_mb=1.5
)
RATES = Measured(
    device="cuda",
    frames=64,
    decode_s=0.002,
    model_s={"face": 0.001, "embeddings": 0.0005},
    other_s=0.0,
    cpus=4,
    cpu_per_s=1.0,
    faces=2.0,
    face_bytes=3000.0,
    start_s=15.0,
)
BOTH = {"face": 1.0, "embeddings": 1.0}


def made(*assignments, rates=RATES, cluster=None, share=None, **other):
    cluster = cluster or Cluster(cpus=8, gpus=2)
    return forecast(PROBED, share or BOTH, load_config(None, assignments, {}), cluster, rates, **other)


def test_amounts_scale_from_the_probed_clips_to_all():
    result = made("decode.every=3")
    assert (result["clips"], result["frames"], result["sampled"], result["faces"]) == (100, 90_000, 30_000, 60_000)
    assert result["hours"] == pytest.approx(3000 / 3600)
    assert result["unreadable"] == 10
    assert result["output_mb"] == pytest.approx(180, rel=0.01)
    assert made("decode.fps=10")["sampled"] == 30_000


def test_time_is_that_of_the_slower_stage_and_names_it():
    result = made()
    # 90,000 Mpx x 1 ms + 180,000 faces x 0.5 ms on 2 GPUs; 90,000 Mpx x 2 ms on 8 cores
    assert result["models"]["face"]["device_hours"] == pytest.approx(90 / 3600)
    assert result["models"]["embeddings"]["device_hours"] == pytest.approx(90 / 3600)
    assert result["seconds"] == pytest.approx(15 + 90)
    assert result["bottleneck"] == "annotate"
    assert result["cores_per_gpu"] == pytest.approx(1.0)
    assert made(cluster=Cluster(1, 2))["bottleneck"] == "decode"


def test_decoders_and_actors_share_the_cores_where_there_is_no_gpu():
    rates = Measured(**{**vars(RATES), "device": "cpu", "cpu_per_s": 2.0})
    result = made(rates=rates, cluster=Cluster(4, 0))
    assert result["seconds"] == pytest.approx(15 + 180)  # an actor alone takes 180 s, and (180 x 2 + 180) / 4 is less
    assert result["cores_per_gpu"] is None
    assert made(rates=rates, cluster=Cluster(8, 0))["seconds"] == pytest.approx(15 + 90)
    assert made(rates=rates, cluster=Cluster(2, 0))["seconds"] == pytest.approx(15 + (180 * 2 + 180) / 2)


def test_a_trial_tells_when_the_flow_is_at_work_and_what_the_parts_take_together():
    # 1,000 Mpx x 1 ms + 1,000 faces x 0.5 ms on a GPU are 1.5 s, ten times as much later 15 s
    steps = [
        Step(20.0, Amount(1000, 1000, 1000)),
        Step(30.0, Amount(5000, 5000, 5000)),
        Step(47.0, Amount(1e4, 1e4, 1e4)),
    ]
    rates = after_trial(RATES, steps, Cluster(8, 1))
    assert rates.start_s == pytest.approx(18.5)
    assert rates.overhead == pytest.approx(27 / 13.5)
    assert made(rates=rates)["seconds"] == pytest.approx(18.5 + 2 * 90)
    short = after_trial(RATES, steps[:1], Cluster(8, 1))
    assert (short.start_s, short.overhead) == (pytest.approx(18.5), None)
    assert made(rates=short)["seconds"] == pytest.approx(18.5 + 90)


def test_cost_is_the_clusters_and_shared_out_to_the_models():
    result = made("plan.gpu_hour=3", "plan.cpu_hour=0.1")
    assert result["cost"] == pytest.approx(105 / 3600 * (2 * 3 + 8 * 0.1))
    assert sum(model["cost"] for model in result["models"].values()) == pytest.approx(result["cost"])
    assert made("plan.gpu_hour=3")["cost"] is None


def test_models_that_only_some_clips_lack_take_their_share():
    result = made(share={"embeddings": 0.5})
    assert result["models"]["face"]["device_hours"] == 0
    assert result["models"]["embeddings"]["device_hours"] == pytest.approx(45 / 3600)


def test_without_a_measurement_time_and_cost_are_not_made_up():
    result = made(rates=None, faces_per_frame=1.5)
    assert result["faces"] == 135_000
    assert result["seconds"] is result["cost"] is result["output_mb"] is None
    assert made(rates=None)["faces"] is None


def test_forecast_and_actual_stand_side_by_side():
    rows = {row["quantity"]: row for row in against(made(), {"frames": 80_000.0, "seconds": 120.0})}
    assert rows["frames"] == {"quantity": "frames", "forecast": 90_000, "actual": 80_000}
    assert rows["faces"]["actual"] is None
