"""Fine-tuning on a tiny random BERT: it learns, it repeats itself, and an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from inference.export.heads import Linear
from inference.training.finetune import Settings, SharedModel, Source, draw_pool, finetune, learning_rate, softened
from tests.inference.export.tiny_bert import DIMS, reference_hidden, tiny_encoder

pytestmark = pytest.mark.slow  # importing transformers takes seconds

WORDS = ["pay", "bill", "cancel", "my", "plan", "card", "lost", "help", "the", "please"]
SETTINGS = Settings(
    steps=6, batch_rows=8, max_tokens=8, frozen_layers=1, save_every=3, quotas={"intent": 12, "plain": 4}, seed=4
)


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: row + 1 for row, word in enumerate(WORDS)} | {"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture
def sources() -> dict[str, Source]:
    rng = np.random.default_rng(0)
    frozen = rng.normal(size=(4, DIMS)).astype(np.float32)
    frozen /= np.linalg.norm(frozen, axis=1, keepdims=True)
    texts = ["pay my bill", "cancel my plan please", "pay the card", "cancel the card"]
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    return {
        "intent": Source("intent_logits", True, texts, targets, np.ones_like(targets), frozen),
        "plain": Source("", True, texts, targets, targets, frozen),
    }


def model() -> SharedModel:
    head = Linear(np.zeros((2, DIMS), np.float32), np.zeros(2, np.float32))
    return SharedModel(tiny_encoder(), {"intent_logits": head})


def test_the_torch_encoder_is_the_exported_one() -> None:
    ids = [1, 5, 9, 2]
    with torch.no_grad():
        features, embedding = model()(torch.tensor([[*ids, 0]]), torch.tensor([[1.0, 1, 1, 1, 0]]))
    expected = reference_hidden(tiny_encoder(), ids).mean(0)
    np.testing.assert_allclose(features[0].numpy(), expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_allclose(embedding.numpy(), features.numpy(), atol=1e-6)  # nothing has moved yet


def test_a_pool_is_drawn_by_quota_and_repeats(tokenizer: Tokenizer, sources: dict[str, Source]) -> None:
    batches = draw_pool(sources, SETTINGS, tokenizer, 2)
    assert sorted(len(batch) for batch in batches) == [8, 8]
    drawn = [row.source for batch in batches for row in batch]
    assert drawn.count("intent") == 12
    assert batches == draw_pool(sources, SETTINGS, tokenizer, 2)
    assert batches != draw_pool(sources, SETTINGS, tokenizer, 3)


def test_it_learns_and_keeps_the_frozen_layers(
    tokenizer: Tokenizer, sources: dict[str, Source], tmp_path: Path
) -> None:
    losses: list[float] = []
    trained = model()
    settings = replace(SETTINGS, steps=60, encoder_rate=1e-3, head_rate=2e-2, save_every=60)
    finetune(trained, sources, tokenizer, settings, tmp_path / "state.pt", lambda _, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    encoder, projection, heads = trained.export(tiny_encoder())
    start = tiny_encoder().tensors
    low, high = "encoder.layer.0.output.dense.weight", "encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(encoder.tensors[low], start[low])
    assert np.abs(encoder.tensors[high] - start[high]).max() > 0
    assert projection.shape == (DIMS, DIMS)
    assert heads["intent_logits"].weight.shape == (2, DIMS)


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tokenizer: Tokenizer, sources: dict[str, Source], tmp_path: Path
) -> None:
    whole = model()
    finetune(whole, sources, tokenizer, SETTINGS, tmp_path / "whole.pt")

    def interrupt(step: int, _: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model(), sources, tokenizer, SETTINGS, tmp_path / "cut.pt", interrupt)
    resumed, steps = model(), list[int]()
    finetune(resumed, sources, tokenizer, SETTINGS, tmp_path / "cut.pt", lambda step, _: steps.append(step))
    assert steps == [4, 5, 6]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_a_state_of_other_settings_is_refused(tokenizer: Tokenizer, sources: dict[str, Source], tmp_path: Path) -> None:
    finetune(model(), sources, tokenizer, SETTINGS, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="other settings"):
        finetune(model(), sources, tokenizer, replace(SETTINGS, seed=5), tmp_path / "state.pt")


def test_labels_are_believed_in_part(sources: dict[str, Source]) -> None:
    sure = np.array([[40, -40], [40, -40], [40, -40], [40, -40]], np.float32)
    soft = softened(sources["intent"], sure, 0.25)
    np.testing.assert_allclose(soft.targets, [[1, 0], [0.25, 0.75], [1, 0], [0.25, 0.75]], atol=1e-6)
    apart = softened(replace(sources["intent"], softmax=False), np.zeros((4, 2), np.float32), 0.5)
    np.testing.assert_allclose(apart.targets, [[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.25, 0.75]], atol=1e-6)


def test_the_mean_of_the_last_weights_is_taken(
    tokenizer: Tokenizer, sources: dict[str, Source], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, steps=4, floor=0.5, averaged=0.5)
    seen: list[torch.Tensor] = []
    averaged = model()
    weight = averaged.heads["intent_logits"].weight
    finetune(averaged, sources, tokenizer, settings, tmp_path / "a.pt", lambda *_: seen.append(weight.detach().clone()))
    torch.testing.assert_close(weight.detach(), (seen[2] + seen[3]) / 2)
    assert not torch.equal(seen[2], seen[3])


def test_the_rate_rises_then_falls_to_nothing() -> None:
    settings = Settings(steps=100, warmup=0.1)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(100, settings) == 0
    assert learning_rate(99, replace(settings, floor=0.25)) == 0.25
