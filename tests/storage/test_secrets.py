"""Credentials of the storage never show: not in the configuration's dump, not in messages, not in what a run leaves."""

import pytest

from pipeline.config.models import load_config
from pipeline.config.render import to_yaml
from pipeline.errors import ConfigError

SECRETS = ["AKIAVERYSECRETKEY", "very/secret+value", "token-of-session", "in-the-url"]
OPTIONS = (
    "storage.options={endpoint_url: 'https://user:in-the-url@host:9000', key: AKIAVERYSECRETKEY, profile: work, "
    "secret: very/secret+value, anon: false, client_kwargs: {aws_session_token: token-of-session, region_name: r1}}"
)


@pytest.fixture
def config():
    return load_config(None, [OPTIONS], {})


def test_the_dump_hides_what_may_be_a_secret_and_shows_the_rest(config):
    text = to_yaml(config)
    assert not [secret for secret in SECRETS if secret in text]
    assert '"endpoint_url": "https://***@host:9000"' in text
    assert '"anon": false' in text
    assert '"profile": "work"' in text
    assert '"region_name": "r1"' in text
    assert '"secret": "***"' in text


def test_the_options_themselves_are_whole(config):
    assert config.storage.options["secret"] == "very/secret+value"


def test_neither_repr_nor_a_model_dump_in_json_tells(config):
    for text in (repr(config), str(config), config.model_dump_json()):
        assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    "assignment",
    [
        "storage.options.secret='very/secret+value",
        "storage.options=very/secret+value",
        "storage.optoins=token-of-session",
    ],
)
def test_messages_about_wrong_settings_do_not_repeat_values(assignment):
    with pytest.raises(ConfigError) as error:
        load_config(None, [assignment], {})
    assert not [secret for secret in SECRETS if secret in str(error.value)]
    assert "storage" in str(error.value)
