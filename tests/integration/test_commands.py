"""The commands as their users type them."""

import json
import subprocess
import sys

import pytest

from server.config.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow


def cueline(*arguments: str, stdin: str | bytes = "", **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", "from server.cli import main; main()", *arguments],
        input=stdin if isinstance(stdin, str) else stdin.decode("latin-1"),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def annotate(lines: list[str], *options: str) -> list[dict]:
    done = cueline("annotate", *options, stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_annotate_keeps_order_fields_and_shapes():
    texts = [f"i need to reset my pin number {n}" for n in range(300)]
    rows = annotate([json.dumps({"text": text, "id": n}) for n, text in enumerate(texts)])
    assert [(row["id"], row["text"]) for row in rows] == list(enumerate(texts))
    row = rows[0]
    assert row["intent"]["label"] == "pin_change"
    assert set(row["intent"]) == {"label", "score", "in_scope", "in_scope_score"}
    assert set(row["intent_banking"]) == {"label", "score"}
    assert set(row["sentiment"]["scores"]) == {"negative", "neutral", "positive"}
    assert set(row["dissatisfied"]) == {"score"}
    assert set(row["question"]) == {"is_question", "score"}
    for name in ("intent_modular", "acts", "actions"):
        assert all(set(item) == {"label", "score"} for item in row[name])
        assert row[name] == sorted(row[name], key=lambda item: -item["score"])


def test_annotate_does_not_stumble_over_bad_lines():
    rows = annotate(
        [
            '{"text": "hello", "speaker": "agent"}',
            "{",
            '{"txt": "x", "id": 7}',
            '{"text": 5}',
            '{"text": "x", "speaker": "ivr"}',
            '{"text": ""}',
            "[1]",
            '{"text": "x", "deep": ' + "[" * 50_000 + "]" * 50_000 + "}",
            '{"text": "x", "number": NaN}',
            '{"text": "x\\ud800"}',
            '{"text": "where is my card"}',
        ],
        "--outputs",
        "intent,acts",
    )
    assert rows[0]["intent"] is None  # asked of customers only
    assert isinstance(rows[0]["acts"], list)
    assert [row.get("error", {}).get("field", "none") for row in rows] == [
        "none", None, "text", "text", "speaker", "none", None, None, None, None, "none",
    ]  # fmt: skip
    assert [row["error"]["line"] for row in rows if "error" in row] == [2, 3, 4, 5, 7, 8, 9, 10]
    assert rows[2]["id"] == 7
    assert rows[5]["intent"]["label"]
    assert set(rows[10]) == {"text", "intent", "acts"}


def test_annotate_reads_a_line_after_the_turn_before_it():
    offer = [{"speaker": "customer", "text": "hello"}, {"speaker": "agent", "text": "shall i book the table for you"}]
    close = [{"speaker": "agent", "text": "is there anything else i can help you with"}]
    rows = annotate(
        [
            json.dumps({"text": "yes", **({} if context is None else {"context": context})})
            for context in (
                None,
                [],
                offer,
                offer[1:],
                close,
                "x",
                [7],
                [{"text": 7}],
                [{"text": "", "speaker": "ivr"}],
            )
        ],
        "--outputs",
        "acts,intent",
    )
    alone, begin, booked, same, *rest = (row.get("acts") for row in rows[:5])
    assert alone == begin
    assert booked == same  # only the last turn counts
    assert "AFFIRM_INTENT" in [claim["label"] for claim in booked]
    assert alone not in (booked, rest[0])
    assert len({json.dumps(row["intent"]) for row in rows[:5]}) == 1  # this head does not look back
    fields = [row["error"]["field"] for row in rows[5:]]
    assert fields == ["context", "context[0]", "context[0].text", "context[0].speaker"]


def test_annotate_knows_the_own_actions_of_a_tenant():
    lines = [
        json.dumps({"text": "okay i am sending a tow truck out to you", "speaker": "agent"}),
        json.dumps({"text": "okay i am sending a tow truck out to you", "speaker": "customer"}),
        json.dumps({"text": "so i am blocking your debit card right now", "speaker": "agent"}),
        json.dumps({"text": "did you see the game last night", "speaker": "agent"}),
    ]
    found = {}
    for tenant, label in (("car_service", "order_tow"), ("retail_bank", "block_card")):
        rows = annotate(lines, "--tenant", tenant, "--outputs", "actions")
        assert all(set(row) == {"text", "speaker", "actions"} for row in rows)
        assert all(set(claim) == {"label", "score"} for row in rows for claim in row["actions"])
        found[tenant] = [label in {claim["label"] for claim in row["actions"]} for row in rows]
    assert found == {"car_service": [True, False, False, False], "retail_bank": [False, False, True, False]}
    done = cueline("annotate", "--tenant", "nobody", stdin=lines[0])
    assert (done.returncode, "`nobody` has no policy" in done.stderr) == (2, True)


def test_annotate_of_nothing_is_nothing():
    assert annotate([""]) == []


def test_annotate_names_an_unknown_output():
    for outputs, told in (("intent,colour", "colour"), (" , ", "names no output")):
        done = cueline("annotate", "--outputs", outputs, stdin='{"text":"x"}\n')
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"CUELINE_PORT": "70000"}, "port"),
        ({"CUELINE_COLOUR": "blue"}, "colour: there is no such setting"),
        ({"CUELINE_HOST": "0.0.0.0"}, "auth.shared_key"),
        ({"CUELINE_AUTH__DEFAULT_TENANT": "nobody"}, "auth.default_tenant: has no policy"),
        ({"CUELINE_PATHS__GRAPHS": "/no/such"}, "paths.graphs"),
        ({"CUELINE_PATHS__MODEL_REPO": str(PROJECT_ROOT / "docs")}, "config.pbtxt: no such file"),
        ({"CUELINE_SPEECH__MOONSHINE_FOLDER": "/no/such"}, "moonshine"),
    ],
)
def test_a_mistake_stops_the_start_with_its_path(tmp_path, environment, told):
    done = cueline("serve", "--dry-run", CUELINE_DATA_DIR=str(tmp_path), **environment)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("guidance.yaml", "op: tokenize", "op: tokenise", "guidance.yaml: nodes.tokens.op"),
        ("budget.toml", "asr = 300", "asr = 0", "budget.toml: stages.asr"),
        ("policies/car_service.yaml", "tenant:", "tennant:", "car_service.yaml"),
    ],
)
def test_a_mistaken_declaration_stops_the_start(tmp_path, name, old, new, told):
    import shutil

    graphs = tmp_path / "graphs"
    shutil.copytree(PROJECT_ROOT / "graphs", graphs)
    text = (graphs / name).read_text()
    assert old in text
    (graphs / name).write_text(text.replace(old, new, 1))
    done = cueline("serve", "--dry-run", CUELINE_DATA_DIR=str(tmp_path / "data"), CUELINE_PATHS__GRAPHS=str(graphs))
    assert done.returncode == 2, done.stderr
    assert told in done.stderr


def test_dry_run_loads_everything_and_ends(tmp_path):
    done = cueline("serve", "--dry-run", CUELINE_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "everything loads" in done.stderr


def test_clients_say_clearly_that_no_server_is_there(tmp_path):
    nowhere = "ws://127.0.0.1:9"
    demo = str(PROJECT_ROOT / "data" / "demo" / "car_service.wav")
    for command in (("replay", "--call", demo, "--url", nowhere), ("feed", "--conversation", "x", "--url", nowhere)):
        done = cueline(*command)
        assert done.returncode != 0, command
        assert "127.0.0.1:9" in done.stderr
        assert "Traceback" not in done.stderr


def test_help_answers():
    done = cueline("serve", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
