from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from server.cli.serve import serve
from server.wire.errors import ConfigError


def test_the_settings_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "cueline.toml"
    file.write_text("no_such_setting = 1\n")
    result = CliRunner().invoke(serve, ["--dry-run"], env={"CUELINE_CONFIG": str(file)})
    assert isinstance(result.exception, ConfigError)
    assert "no_such_setting" in str(result.exception)
