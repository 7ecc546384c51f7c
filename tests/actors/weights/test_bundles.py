"""Bundles: what they resolve to, and what is said when they cannot."""

import pytest

from actors.errors import BundleError, MissingWeightsError
from actors.weights.bundles import build_model, resolve_bundle
from actors.weights.catalog import BUNDLES, MODELS
from pipeline.schema import SLOTS


@pytest.fixture
def write(tmp_path):
    def write_bundle(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    (tmp_path / "weights.bin").write_bytes(b"one")
    (tmp_path / "my_factories.py").write_text(
        "def echo(weights, scale=1):\n    return lambda x: (weights.read_bytes(), scale)\n"
    )
    return write_bundle


MINE = """
extends: tiny
models:
  gaze: none
  embeddings:
    factory: my_factories:echo
    weights: weights.bin
    input: crops112
    same_person_cosine: 0.4
    parameters: {scale: 3}
"""


@pytest.mark.parametrize("name", BUNDLES)
def test_named_bundles_fill_slots_with_models_of_those_slots(name):
    for slot, model in BUNDLES[name].items():
        assert slot in SLOTS
        assert model in MODELS[slot]


def test_a_factory_gets_its_weights_and_parameters(write):
    bundle = resolve_bundle(write(MINE))
    model = bundle.slot("embeddings")
    assert (model.same_person_cosine, model.needs) == (0.4, ("face",))
    assert build_model(model)(None) == (b"one", 3)
    assert "gaze" in bundle.left_out


def test_the_old_spelling_of_license_is_read_with_a_warning(write):
    with pytest.warns(FutureWarning, match="'license'"):
        bundle = resolve_bundle(write(MINE.replace("input:", "licence: ours\n    input:")))
    assert bundle.slot("embeddings").license == "ours"


def test_the_version_follows_from_bytes_parameters_input_and_what_comes_before(write, tmp_path):
    versions = {resolve_bundle(write(MINE)).versions["embeddings"]}
    versions.add(resolve_bundle(write(MINE), sampling="every 2").versions["embeddings"])
    versions.add(resolve_bundle(write(MINE.replace("scale: 3", "scale: 4"))).versions["embeddings"])
    versions.add(resolve_bundle(write(MINE.replace("crops112", "crops224"))).versions["embeddings"])
    (tmp_path / "weights.bin").write_bytes(b"two")
    versions.add(resolve_bundle(write(MINE)).versions["embeddings"])
    assert len(versions) == 5


def test_the_version_does_not_follow_from_where_the_file_lies(write, tmp_path):
    here = resolve_bundle(write(MINE)).versions
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(b"one")
    assert resolve_bundle(write(MINE.replace("weights.bin", "elsewhere/weights.bin"))).versions == here


def test_weights_that_change_under_a_run_are_refused(write, tmp_path):
    model = resolve_bundle(write(MINE)).slot("embeddings")
    (tmp_path / "weights.bin").write_bytes(b"two")
    with pytest.raises(MissingWeightsError, match="changed since"):
        build_model(model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {landmarks: mobilefacenet}", "needs a model for the slot 'face'"),
        ("extends: tiny\nmodels: {nose: x}", "no slot 'nose'"),
        ("extends: tiny\nmodels: {gaze: {model: l3cs}}", "no model 'l3cs'"),
        ("extends: tiny\nmodels: {landmarks: arcface_r50}", "fills the slot 'embeddings'"),
        ("extends: tiny\nmodels: {embeddings: {factory: 'a:b', input: crops112}}", "same_person_cosine"),
        ("extends: tiny\nmodels: {embeddings: {factory: 'a:b', same_person_cosine: 0.3}}", "input"),
        ("extends: tiny\nmodels: {landmarks: none, gaze: {factory: 'a:b', input: landmarks}}", "it needs landmarks"),
        ("extends: tiny\nmodels: {gaze: {factory: 'a:b', input: crops112, wieghts: x}}", "wieghts"),
        ("extends: nothing\nmodels: {}", "nothing"),
    ],
)
def test_a_wrong_bundle_says_what_and_where(write, text, words):
    with pytest.raises(BundleError, match=words):
        resolve_bundle(write(text))


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(BundleError, match="pyfeat"):
        resolve_bundle("py-feat")


def test_missing_weights_name_the_model_the_file_and_the_remedy(tmp_path):
    with pytest.raises(MissingWeightsError) as caught:
        resolve_bundle("pyfeat", mirror=str(tmp_path))
    for words in ("retinaface_r34", "model.safetensors", "models.mirror", "--bundle tiny"):
        assert words in str(caught.value)


def test_a_mirror_is_a_folder_laid_out_like_the_hub_and_older_file_names_serve(tmp_path):
    for slot, model in BUNDLES["pyfeat"].items():
        for file in MODELS[slot][model].files.values():
            path = tmp_path / file.repo / file.names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.repo.encode())
    bundle = resolve_bundle("pyfeat", mirror=f"file://{tmp_path}")
    assert [model.slot for model in bundle.models] == list(SLOTS)
    assert bundle.slot("face").files["weights"].uri.endswith("retinaface_r34.safetensors")
    assert bundle.slot("pose").needs == ("face", "landmarks")


def test_without_network_the_hub_path_says_so(monkeypatch, tmp_path):
    # the real huggingface_hub against an address of this machine where nothing listens
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="--bundle tiny"):
        resolve_bundle("pyfeat")
