"""The real Whisper, where `make whisper` has put one, and what is told where not."""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr

from server.config.load import load_settings
from server.config.settings import PROJECT_ROOT
from server.metrics import Metrics
from server.speech.chosen import choose
from server.speech.contract import Final, Interim
from server.speech.decoder import Hints
from server.speech.model_files import whisper_languages
from server.speech.word_errors import word_errors, words_of
from server.wire.errors import ConfigError
from tests.server.speech.conftest import RenderedCall
from tests.server.speech.test_embedded import said, send, side

FOLDER = PROJECT_ROOT / "build/whisper-base"
needs_whisper = pytest.mark.skipif(
    not (FOLDER / "model.bin").is_file() or importlib.util.find_spec("ctranslate2") is None,
    reason="no Whisper here: make whisper",
)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no model\.bin") as wrong:
        whisper_languages(tmp_path)
    assert wrong.value.field == "speech.whisper.folder"


def test_languages_are_read_from_the_tokens(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json"):
        (tmp_path / name).touch()
    tokens = ["<|endoftext|>", "<|en|>", "<|es|>", "<|haw|>", "<|transcribe|>"]
    (tmp_path / "tokenizer.json").write_text(",".join(f'{{"content":"{token}"}}' for token in tokens))
    assert whisper_languages(tmp_path) == ("en", "es", "haw")
    (tmp_path / "tokenizer.json").write_text('{"content":"<|endoftext|>"}')
    assert whisper_languages(tmp_path) == ("en",)


@needs_whisper
@pytest.mark.slow
def test_a_sentence_silence_and_a_language(call: RenderedCall) -> None:
    from server.speech.whisper import Whisper

    whisper = Whisper(FOLDER)
    start_ms, end_ms, text = call.turns["customer"][0]
    line = call.sides["customer"][start_ms * 8 : end_ms * 8].astype(np.float32) / 32_768
    pcm = soxr.resample(line, 8_000, 16_000).astype(np.float32)
    decoded = whisper.decode(pcm)
    assert decoded is not None
    assert word_errors(words_of(text), words_of(decoded.text)) <= 1
    assert 0.3 < decoded.confidence <= 1
    nothing = whisper.decode(np.zeros(32_000, np.float32))
    assert nothing is not None
    assert nothing.text == ""
    spanish = whisper.decode(pcm, Hints(language="es"))
    assert spanish is not None
    with pytest.raises(ValueError, match=r"no <\|xx\|>"):
        whisper.decode(pcm, Hints(language="xx"))


@needs_whisper
@pytest.mark.slow
def test_a_long_sentence_is_heard_to_its_end(call: RenderedCall) -> None:
    """CTranslate2 keeps half of its length limit for a prompt: quick speech of some seconds lost its last words."""
    from server.speech.whisper import Whisper

    turns = [
        (call.sides[side][start * 8 : end * 8], text) for side in call.turns for start, end, text in call.turns[side]
    ]
    line = np.concatenate([samples for samples, _ in turns]).astype(np.float32) / 32_768
    decoded = Whisper(FOLDER).decode(soxr.resample(line, 8_000, 16_000).astype(np.float32))
    assert decoded is not None
    said_words = words_of(" ".join(text for _, text in turns))
    assert word_errors(said_words, words_of(decoded.text)) <= 4
    assert not decoded.is_capped


@needs_whisper
@pytest.mark.slow
async def test_both_together_behind_the_contract(call: RenderedCall, tmp_path: Path) -> None:
    """Whatever the machine has time for: each utterance has its interim first, its final once, under the same start."""
    settings = load_settings(
        None,
        {
            "CUELINE_SPEECH__WORKERS": "1",
            "CUELINE_SPEECH__WHISPER__FOLDER": str(FOLDER),
            "CUELINE_SPEECH__WHISPER__WORKERS": "1",
            "CUELINE_SPEECH__WHISPER__BUDGET_MS": "30000",
        },
    )
    metrics = Metrics()
    recogniser = choose(settings.speech, tmp_path, {}, metrics)
    await recogniser.start()
    try:
        assert {"en", "es", "fr"} <= set(recogniser.capabilities.languages)
        stream = await recogniser.open(side())
        spanish = await recogniser.open(replace(side("agent"), language="es"))
        listeners = [asyncio.create_task(_listen(one)) for one in (stream, spanish)]
        for one in (stream, spanish):
            await send(one, call.sides["customer"])
            await one.close()
        heard, foreign = await asyncio.gather(*listeners)
    finally:
        await recogniser.stop()
    finals = [event for event in heard if isinstance(event, Final) and event.text]
    words = words_of(" ".join(event.text for event in finals))
    assert word_errors(said(call, "customer"), words) <= 2
    starts = [final.start_ms for final in finals]
    assert starts == sorted(set(starts))
    assert set(starts) <= {event.start_ms for event in heard if isinstance(event, Interim)}
    assert (
        metrics.asr_second_pass.labels("revised")._value.get() + metrics.asr_second_pass.labels("agreed")._value.get()
    )
    assert any(isinstance(event, Final) and event.language == "es" for event in foreign)


async def _listen(stream):
    return [event async for event in stream.events()]
