from pathlib import Path

import pytest

from server.config import Settings, load_settings
from server.wire.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "cueline.toml"
    path.write_text(text)
    return path


def test_defaults_need_nothing():
    assert load_settings() == Settings()


def test_environment_wins_over_file_and_options_over_both(tmp_path):
    file = write(tmp_path, 'port = 1\nhost = "127.0.0.2"\n[engine]\nworkers = 3\n')
    settings = load_settings(file, {"CUELINE_PORT": "2", "CUELINE_ENGINE__WORKERS": "4"}, {"port": 5, "host": None})
    assert (settings.port, settings.host, settings.engine.workers) == (5, "127.0.0.2", 4)


def test_token_and_foreign_variables_are_no_settings():
    assert load_settings(None, {"CUELINE_TOKEN": "x", "PATH": "y"}) == Settings()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("port = 70000", "port"),
        ('port = "x"', "port"),
        ("colour = 1", "colour"),
        ("[engine]\ncolour = 1", "engine.colour"),
        ('[engine]\ndevice = "tpu"', "engine.device"),
        ('[engine]\nbackend = "triton"', "engine.triton_url"),
        ('[auth]\nshared_key = "short"', "auth.shared_key"),
        ('host = "0.0.0.0"', "host"),
        ('host = "192.168.1.5"', "host"),
        ('[paths]\ngraphs = "/no/such/folder"', "paths.graphs"),
        ("[ingest]\nmax_calls = 0", "ingest.max_calls"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(tmp_path, text, field):
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.field == field


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(write(tmp_path, "port = = 1"))


def test_other_addresses_are_allowed_with_authentication(tmp_path):
    file = write(tmp_path, f'host = "0.0.0.0"\n[auth]\nshared_key = "{"k" * 32}"\n')
    assert not load_settings(file).auth.is_anonymous


def test_a_value_is_not_a_section():
    with pytest.raises(ConfigError, match="not a section"):
        load_settings(None, {"CUELINE_PORT": "1", "CUELINE_PORT__X": "2"})
