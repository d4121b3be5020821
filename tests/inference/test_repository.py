from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.plan import Bucket
from inference.repository import DEFAULT_TOKEN_LADDER, ModelRepository
from tests.inference.model_folders import HEADS, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model_repo"


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_version_is_described(folder: Path) -> None:
    write_model(folder, versions=[1, 2])
    version = ModelRepository.open(folder).model("utterance").latest
    assert (version.name, version.version, version.path) == ("utterance", 2, folder / "utterance/2")
    assert version.weights == folder / "utterance/2/model.onnx"
    assert version.tokenizer == folder / "utterance/tokenizer.json"
    assert version.labels["sentiment_logits"] == ("negative", "neutral", "positive")
    assert set(version.heads) == set(HEADS)
    assert version.buckets == (
        Bucket(1, 8), Bucket(1, 32), Bucket(4, 8), Bucket(8, 8), Bucket(4, 32), Bucket(8, 32),
    )  # fmt: skip


def test_a_tokeniser_may_belong_to_a_version(folder: Path) -> None:
    write_model(folder)
    (folder / "utterance/1/tokenizer.json").write_text('{"own": 1}')
    before = write_model(folder, "other")
    opened = ModelRepository.open(folder)
    assert opened.model("utterance").latest.tokenizer == folder / "utterance/1/tokenizer.json"
    assert opened.model("other").latest.tokenizer == before / "tokenizer.json"
    assert opened.model("utterance").latest.tokenizer_digest != opened.model("other").latest.tokenizer_digest


def test_precision_chooses_the_file(folder: Path) -> None:
    write_model(folder, extra='parameters { key: "precision" value { string_value: "fp16" } }')
    opened = ModelRepository.open(folder)
    assert [str(problem) for problem in opened.problems] == [
        "model_repo/utterance/1/model.fp16.onnx: no weights; `make models` builds them"
    ]
    (folder / "utterance/1/model.fp16.onnx").write_bytes(b"x")
    version = ModelRepository.open(folder).model("utterance").latest
    assert (version.precision, version.weights.name) == ("fp16", "model.fp16.onnx")


def test_a_graph_needs_no_weights(folder: Path) -> None:
    write_model(folder, weights=False)
    assert ModelRepository.open(folder).problems
    assert not ModelRepository.open(folder, weights=False).problems


def test_a_bad_version_hides_nothing(folder: Path) -> None:
    write_model(folder, versions=[1, 2, 3])
    (folder / "utterance/2/model.onnx").unlink()
    (folder / "utterance/3/heads.json").write_text('{"intent_logits": {"kind": "single"')
    model = ModelRepository.open(folder).model("utterance")
    assert list(model.versions) == [1]
    assert model.latest.version == 1
    assert {number: problem.path for number, problem in model.problems.items()} == {
        2: "model_repo/utterance/2/model.onnx",
        3: "model_repo/utterance/3/heads.json",
    }


def test_alien_folders_are_told_and_the_rest_is_served(folder: Path) -> None:
    write_model(folder)
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    (folder / "text/config.pbtxt").write_text("hello world")
    unnumbered = write_model(folder, "unnumbered", versions=[])
    (unnumbered / "01").mkdir()
    (unnumbered / "latest").mkdir()
    (folder / ".git").mkdir()
    (folder / "README.md").write_text("hello")
    opened = ModelRepository.open(folder)
    assert list(opened.models) == ["utterance"]
    assert [(problem.path, problem.key) for problem in opened.problems] == [
        ("model_repo/empty/config.pbtxt", ""),
        ("model_repo/text/config.pbtxt", "line 1"),
        ("model_repo/unnumbered", ""),
    ]
    with pytest.raises(ModelError, match=r"model_repo/text/config\.pbtxt"):
        opened.model("text")
    with pytest.raises(ModelError, match="model_repo/none: no such model, there is utterance"):
        opened.model("none")
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        ModelRepository.open(folder / "nowhere")


def test_a_half_copied_tokeniser_is_told(folder: Path) -> None:
    write_model(folder, tokenizer='{"model": {"vocab": {"a":')
    assert [str(problem) for problem in ModelRepository.open(folder).problems] == [
        "model_repo/utterance/tokenizer.json: tokeniser is no JSON: Input data was truncated"
    ]


def test_a_folder_that_cannot_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(folder)
    write_model(folder, "denied")
    iterate = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "denied":
            raise PermissionError
        return iterate(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    opened = ModelRepository.open(folder)
    assert list(opened.models) == ["utterance"]
    assert str(opened.problems[0]) == "model_repo/denied: cannot be read (PermissionError)"


def test_the_version_policy_chooses(folder: Path) -> None:
    write_model(folder, "pinned", versions=[1, 2, 3], extra="version_policy { specific { versions: [2] } }")
    write_model(folder, "all", versions=[1, 2, 10], extra="version_policy { all { } }")
    write_model(folder, "missing", versions=[1], extra="version_policy { specific { versions: [2] } }")
    opened = ModelRepository.open(folder)
    assert opened.model("pinned").latest.version == 2
    assert [version.version for version in opened.model("all").served] == [10, 2, 1]
    with pytest.raises(ModelError, match="model_repo/missing: has no version that its version_policy serves"):
        assert opened.model("missing").latest


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("acts_logits.txt", "thank\n", "", "model_repo/utterance/acts_logits.txt: expected 3 labels"),
        ("acts_logits.txt", "thank", "greet", "acts_logits.txt: line 2: 'greet' is on line 1 already"),
        ("acts_logits.txt", "thank", "", "acts_logits.txt: line 2: expected one label without blanks around it"),
        ("acts_logits.txt", "thank", " thank", "acts_logits.txt: line 2: expected one label"),
        (
            "config.pbtxt",
            '"acts_logits.txt"',
            '"nothing.txt"',
            r"nothing.txt: labels cannot be read \(FileNotFoundError\)",
        ),
        (
            "config.pbtxt",
            '"acts_logits.txt"',
            '"../x.txt"',
            "output acts_logits.label_filename: expected a file of the model",
        ),
        (
            "config.pbtxt",
            '"1,4,8"',
            '"1,4,16"',
            "parameters.buckets_rows: expected rows up to max_batch_size 8, given 16",
        ),
        ("config.pbtxt", '"1,4,8"', '"4,1"', "parameters.buckets_rows: expected ascending positive numbers"),
        ("config.pbtxt", '"8,32"', '"8;32"', "parameters.buckets_tokens: expected ascending positive numbers"),
        ("config.pbtxt", '"8,32"', '"0,8"', "parameters.buckets_tokens: expected ascending positive numbers"),
    ],
)
def test_what_is_refused(file: str, old: str, new: str, message: str, folder: Path) -> None:
    replace_in(write_model(folder) / file, old, new)
    opened = ModelRepository.open(folder)
    with pytest.raises(ModelError, match=message):
        assert opened.model("utterance").latest
    assert len(opened.problems) == 1


def test_ladders_without_parameters(folder: Path) -> None:
    config = write_model(folder) / "config.pbtxt"
    for key in ("buckets_rows", "buckets_tokens"):
        replace_in(config, f'key: "{key}"', f'key: "no_{key}"')
    replace_in(config, "max_batch_size: 8", "max_batch_size: 6")
    buckets = ModelRepository.open(folder).model("utterance").latest.buckets
    assert {bucket.rows for bucket in buckets} == {1, 2, 4, 6}
    assert {bucket.tokens for bucket in buckets} == set(DEFAULT_TOKEN_LADDER)
    assert [b.padded_tokens for b in buckets] == sorted(b.padded_tokens for b in buckets)


def test_a_fixed_length_is_the_only_rung(folder: Path) -> None:
    config = write_model(folder) / "config.pbtxt"
    replace_in(config, "TYPE_INT32 dims: [-1]", "TYPE_INT32 dims: [64]")
    assert {b.tokens for b in ModelRepository.open(folder).model("utterance").latest.buckets} == {64}


def test_the_digest_follows_what_a_graph_sees(folder: Path) -> None:
    model = write_model(folder)
    before = ModelRepository.open(folder).digest
    (model / "1/model.onnx").write_bytes(b"other weights")
    assert ModelRepository.open(folder).digest == before
    replace_in(model / "acts_logits.txt", "thank", "thanks")
    assert ModelRepository.open(folder).digest != before


@pytest.mark.parametrize("file", ["config.pbtxt", "sentiment_logits.txt", "1/heads.json"])
def test_a_pipe_in_the_place_of_a_file_is_told_and_not_waited_for(folder: Path, file: str) -> None:
    model = write_model(folder)
    (model / file).unlink()
    os.mkfifo(model / file)
    (problem,) = ModelRepository.open(folder).problems
    assert problem.path.endswith(file)
    assert "NotRegularFileError" in problem.problem


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.pbtxt", b"parameters {" * 10_000),
        ("1/heads.json", b"[" * 100_000),
        ("tokenizer.json", b'{"a":' * 100_000),
        ("config.pbtxt", b'output { name: "a" data_type: TYPE_FP32 dims: [2] label_filename: "a\\000b" }'),
    ],
)
def test_nonsense_is_one_problem_and_hides_no_neighbour(folder: Path, file: str, content: bytes) -> None:
    (write_model(folder) / file).write_bytes(content)
    write_model(folder, "other")
    opened = ModelRepository.open(folder)
    assert len(opened.problems) == 1
    assert opened.problems[0].path.startswith("model_repo/utterance")
    assert opened.model("other").latest.version == 1


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ('default_model_filename: "../../other/1/model.onnx"', "default_model_filename"),
        ('parameters { key: "precision" value { string_value: "x/../y" } }', "parameters.precision"),
    ],
)
def test_weights_lie_in_the_folder_of_their_version(folder: Path, extra: str, key: str) -> None:
    write_model(folder, extra=extra)
    (problem,) = ModelRepository.open(folder).problems
    assert problem.key == key
    assert "expected a file of the version's folder itself" in problem.problem


def test_digits_of_other_scripts_are_no_version(folder: Path) -> None:
    (write_model(folder) / "\u0661").mkdir()
    assert list(ModelRepository.open(folder).model("utterance").versions) == [1]
