import pytest
import yaml

from pipeline.config.models import load_config
from pipeline.config.render import describe
from pipeline.errors import ConfigError


def test_assignments_beat_the_environment_which_beats_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("decode: {every: 2, chunk_frames: 8}\nactors: {batch_faces: 3}\n")
    environment = {"FACEATLAS__DECODE__EVERY": "4", "FACEATLAS__ACTORS__BATCH_FACES": "5", "HOME": "/"}
    config = load_config(file, ["decode.every=6"], environment)
    assert (config.decode.every, config.decode.chunk_frames, config.actors.batch_faces) == (6, 8, 5)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("decode.evry=2", "decode.evry"),
        ("decode.every=0", "decode.every"),
        ("decode.every", "section.name=value"),
        ("actors={size: 1, pools: [{size: 1}]}", "belong to each pool"),
        ("decode={every: 2, fps: 5}", "exclude each other"),
    ],
)
def test_a_wrong_setting_is_named(assignment, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, [assignment], {})


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml", [], {})


def test_the_description_reads_back_as_the_same_configuration(tmp_path):
    config = load_config(None, ["decode.every=3", "actors.pools=[{slots: [face], size: 2}]"], {})
    file = tmp_path / "described.yaml"
    file.write_text(describe(config))
    assert load_config(file, [], {}) == config
    assert yaml.safe_load(file.read_text())["decode"]["every"] == 3
