import pytest
import yaml

from pipeline.config.models import RENAMED, IdentitiesConfig, load_config
from pipeline.config.render import to_yaml
from pipeline.errors import ConfigError
from pipeline.planning.versions import digest_values


def test_assignments_beat_the_environment_which_beats_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("decode: {every: 2, chunk_frames: 8}\nactors: {batch_faces: 3}\n")
    environment = {"FACEATLAS__DECODE__EVERY": "4", "FACEATLAS__ACTORS__BATCH_FACES": "5", "HOME": "/"}
    config = load_config(file, ["decode.every=6"], environment)
    assert (config.decode.every, config.decode.chunk_frames, config.actors.batch_faces) == (6, 8, 5)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("decode.evry=2", r"unknown setting decode\.evry; did you mean decode\.every\?"),
        ("decod.every=2", r"unknown setting decod; did you mean decode\?"),
        ("every=2", r"unknown setting every; did you mean decode\.every\?"),
        ("store.chunk_frames=2", r"unknown setting store\.chunk_frames; did you mean decode\.chunk_frames\?"),
        ("actors.pools=[{size: 1}, {sise: 1}]", r"actors\.pools\.1\.sise; did you mean actors\.pools\.1\.size\?"),
        ("decode.zzzzzzzzzz=2", r"unknown setting decode\.zzzzzzzzzz; `faceatlas config` prints all settings"),
        ("decode.every.more=2", r"decode\.every"),
        ("decode.resources={decode: [", "cannot be read as YAML"),
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
    file.write_text(to_yaml(config))
    assert load_config(file, [], {}) == config
    assert yaml.safe_load(file.read_text())["decode"]["every"] == 3


def test_a_mapping_is_replaced_whole_and_amended_by_single_keys(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("decode: {every: 2, resources: {cpu_node: 1}}\nstorage: {options: {anon: true}}\n")
    of_file = load_config(file, [], {})
    assert of_file.decode.resources == {"cpu_node": 1}
    assert load_config(file, ["decode.resources={}"], {}).decode.resources == {}
    assert load_config(file, ["decode={resources: {b: 2}}"], {}).decode.resources == {"b": 2}
    assert load_config(file, ["decode={resources: {b: 2}}"], {}).decode.every == 2
    environment = {"FACEATLAS__DECODE__RESOURCES": "{decode: 1}"}
    assert load_config(file, [], environment).decode.resources == {"decode": 1}
    added = load_config(file, ["storage.options.profile=me"], {}).storage.options
    assert added == {"anon": True, "profile": "me"}
    environment = {"FACEATLAS__STORAGE__OPTIONS": "{key: k}", "FACEATLAS__STORAGE__OPTIONS__SECRET": "s"}
    assert load_config(None, ["storage.options.profile=me"], environment).storage.options == {
        "key": "k",
        "secret": "s",
        "profile": "me",
    }
    assert load_config(None, ["storage.options.a=1", "storage.options={b: 2}"], {}).storage.options == {"b": 2}


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_works_with_a_warning_from_every_source(old, tmp_path):
    section, name = old.split(".")
    new = RENAMED[old].split(".")[1]
    value = {"store": True}.get(section, 1)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({section: {name: value}}))
    variable = {f"FACEATLAS__{section}__{name}".upper(): str(value)}
    for arguments in ((file, [], {}), (None, [f"{old}={value}"], {}), (None, [], variable)):
        with pytest.warns(FutureWarning, match=rf"{old} is now called {RENAMED[old]}"):
            assert getattr(getattr(load_config(*arguments), section), new) == value


def test_an_old_name_gives_way_to_a_new_one_of_a_later_source_but_not_of_the_same(tmp_path):
    environment = {"FACEATLAS__IDENTITIES__KINSHIP": "0.1"}
    with pytest.warns(FutureWarning, match="kinship"):
        config = load_config(None, ["identities.relative_similarity=0.2"], environment)
    assert config.identities.relative_similarity == 0.2
    with pytest.raises(ConfigError, match=r"identities\.kinship is the old name of identities\.relative_similarity"):
        load_config(None, ["identities.relative_similarity=0.2", "identities.kinship=0.1"], {})


def test_versions_hash_the_settings_as_0_1_did():
    assert digest_values(IdentitiesConfig().of_versions()) == "3e26e0f98a9b"
    assert digest_values(IdentitiesConfig(recluster_up_to=1).of_versions()) != "3e26e0f98a9b"
