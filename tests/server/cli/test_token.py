from pathlib import Path

import pytest
from click.testing import CliRunner

from server.auth.tokens import SharedKeyAuthenticator
from server.cli.token import token
from server.wire.errors import ConfigError

KEY = "0123456789abcdef0123456789abcdef"


def test_the_server_takes_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUELINE_AUTH__SHARED_KEY", KEY)
    arguments = ["--tenant", "t", "--agent", "a1", "--role", "agent", "--role", "supervisor", "--team", "north"]
    result = CliRunner().invoke(token, [*arguments, "--ttl", "15m"], catch_exceptions=False)
    identity = SharedKeyAuthenticator(KEY).authenticate(f"Bearer {result.output.strip()}")
    assert (identity.tenant_id, identity.agent_id) == ("t", "a1")
    assert (identity.roles, identity.teams) == ({"agent", "supervisor"}, {"north"})


def test_the_key_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUELINE_AUTH__SHARED_KEY", raising=False)
    config = tmp_path / "cueline.toml"
    config.write_text(f'[auth]\nshared_key = "{KEY}"\n')
    result = CliRunner().invoke(token, ["--config", str(config)], catch_exceptions=False)
    assert SharedKeyAuthenticator(KEY).authenticate(f"Bearer {result.output.strip()}").roles == {"agent"}


def test_without_a_key_there_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUELINE_AUTH__SHARED_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(token, [], catch_exceptions=False)
    assert caught.value.field == "auth.shared_key"


@pytest.mark.parametrize("ttl", ["soon", "-1", "1.5h", ""])
def test_a_strange_life_is_refused(ttl: str) -> None:
    assert CliRunner().invoke(token, ["--ttl", ttl]).exit_code == 2
