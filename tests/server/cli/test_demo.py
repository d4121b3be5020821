from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from server.app.demo_script import load_scripts
from server.cli.demo import demo


@pytest.mark.slow
def test_each_tenant_gets_its_call_in_the_data_folder(tmp_path: Path) -> None:
    runner = CliRunner(env={"CUELINE_DATA_DIR": str(tmp_path)})
    result = runner.invoke(demo, ["render"], catch_exceptions=False)
    assert result.exit_code == 0
    assert {path.stem for path in (tmp_path / "demo").glob("*.wav")} == {script.name for script in load_scripts()}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").iterdir()}
    runner.invoke(demo, ["render"], catch_exceptions=False)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").iterdir()}
