from __future__ import annotations

from pathlib import Path

import numpy as np

from inference.backends.fake import FakeBackend
from inference.repository import ModelRepository
from tests.inference.model_folders import write_model
from tests.inference.tiny_models import bert_tokenizer


def test_outputs_follow_from_the_tokens_alone(tmp_path: Path) -> None:
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    version = ModelRepository.open(tmp_path).model("utterance").latest
    model, again = FakeBackend().load(version), FakeBackend(is_exact=False).load(version)
    ids = np.array([[2, 5, 6, 3], [2, 8, 3, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)
    outputs = [spec.name for spec in version.config.outputs]
    both = model.run({"input_ids": ids, "attention_mask": mask}, outputs)
    alone = again.run({"input_ids": ids[1:, :3], "attention_mask": mask[1:, :3]}, outputs)
    for spec in version.config.outputs:
        assert both[spec.name].shape == (2, spec.size)
        np.testing.assert_array_equal(both[spec.name][1:], alone[spec.name])
    assert not np.allclose(both["embedding"][0], both["embedding"][1])
