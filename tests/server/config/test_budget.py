import pytest

from server.config.budget import load_budget
from server.config.settings import PROJECT_ROOT
from server.wire.clock import STAGES
from server.wire.errors import ConfigError

REQUIREMENT_MS = {
    "audio_capture": 100,
    "network": 50,
    "asr": 300,
    "transcript": 50,
    "orchestrator": 50,
    "inference": 500,
    "publish": 50,
    "socket": 50,
    "render": 50,
}


def test_the_shipped_table_is_the_requirement():
    budget = load_budget(PROJECT_ROOT / "graphs")
    assert budget.stages == REQUIREMENT_MS
    assert tuple(budget.stages) == STAGES
    assert (budget.total_ms, budget.target_ms) == (1250, 1500)


def table(**changes) -> str:
    stages = {**REQUIREMENT_MS, **changes}
    lines = "\n".join(f"{stage} = {ms}" for stage, ms in stages.items() if ms is not None)
    return f"total_ms = 1250\ntarget_ms = 1500\n[stages]\n{lines}\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (table(asr=None), "stages.asr"),
        (table(coffee=5), "stages.coffee"),
        (table(asr=0), "stages.asr"),
        (table(asr="'x'"), "stages.asr"),
        (table(asr="nan"), "stages.asr"),
        (table(asr="true"), "stages.asr"),
        (table().replace("1250", "'x'"), "total_ms"),
        (table(asr=900), "total_ms"),
        (table().replace("1500", "1100"), "target_ms"),
    ],
)
def test_a_wrong_table_names_the_value(tmp_path, text, path):
    (tmp_path / "budget.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_budget(tmp_path)
    assert caught.value.field == f"budget.toml: {path}"


def test_a_missing_table_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_budget(tmp_path)
