"""The real models behind the worker's logic, in this process: what they hear, and what they must not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechStarted
from server.speech.decode_queue import Job
from server.speech.decoder import Decoded, Hints
from server.speech.model_files import locate
from server.speech.moonshine import Moonshine
from server.speech.settings import EmbeddedSettings
from server.speech.silero import SileroModel
from server.speech.transcriber import Transcriber
from server.speech.word_errors import word_errors, words_of
from server.wire.ids import Speaker
from tests.server.speech.conftest import RenderedCall

pytestmark = pytest.mark.slow

Int16 = npt.NDArray[np.int16]


class Models:
    def __init__(self) -> None:
        files = locate("", "")
        self.moonshine = Moonshine(files.moonshine_folder)
        self.silero = SileroModel(files.silero_path)

    def hear(self, samples: Int16, rate_hz: int = 8_000, frame: int = 160, start_ms: int = 0) -> list[SpeechEvent]:
        """All events of a stream whose decodes take no time."""
        events: list[SpeechEvent] = []
        transcriber = Transcriber(
            EmbeddedSettings(), self.silero.open, lambda _, event: events.append(event), lambda _: None
        )
        transcriber.open(1, rate_hz, start_ms, "en")
        for first in range(0, len(samples), frame):
            transcriber.audio(1, samples[first : first + frame].tobytes())
            self._decode_all(transcriber)
        transcriber.close(1)
        self._decode_all(transcriber)
        return events

    def _decode_all(self, transcriber: Transcriber) -> None:
        job: Job | None
        while (job := transcriber.queue.pop()) is not None:
            pcm, hints = transcriber.take(job)
            transcriber.finish(job, self.moonshine.decode(pcm, hints))


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


def text_of(events: list[SpeechEvent]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Final) and event.text)


def error_rate(call: RenderedCall, speaker: Speaker, events: list[SpeechEvent]) -> float:
    said = [word for _, _, text in call.turns[speaker] for word in words_of(text)]
    return word_errors(said, words_of(text_of(events))) / len(said)


@pytest.mark.parametrize("speaker", ["customer", "agent"])
def test_words_and_times_are_those_that_were_said(models: Models, call: RenderedCall, speaker: Speaker) -> None:
    events = models.hear(call.sides[speaker])
    assert error_rate(call, speaker, events) <= 0.1
    finals = [event for event in events if isinstance(event, Final)]
    for start_ms, end_ms, _ in call.turns[speaker]:
        assert min(abs(final.start_ms - start_ms) for final in finals) <= 250
        assert min(abs(final.end_ms - end_ms) for final in finals) <= 150
    for final in finals:
        assert [word.text for word in final.words] == final.text.split()
        assert final.start_ms <= final.words[0].start_ms
        assert final.words[-1].end_ms <= final.end_ms
    assert len([event for event in events if isinstance(event, EndOfSpeech)]) == len(finals)


def test_interims_come_early_grow_and_settle(models: Models, call: RenderedCall) -> None:
    events = models.hear(call.sides["customer"])
    onset_ms = next(event.at_ms for event in events if isinstance(event, SpeechStarted))
    interims = [event for event in events if isinstance(event, Interim)]
    assert interims[0].end_ms - onset_ms <= 700
    finals = {event.start_ms: event for event in events if isinstance(event, Final)}
    for start_ms, final in finals.items():
        own = [interim for interim in interims if interim.start_ms == start_ms]
        assert own, "an utterance without interims"
        assert own[-1].is_stable
        assert own[-1].text == final.text


@pytest.mark.parametrize(
    ("rate_hz", "frame"), [(8_000, 160), (8_000, 777), (16_000, 1_600), (44_100, 882), (48_000, 1)]
)
def test_any_rate_and_frame_size_hears_the_same(models: Models, call: RenderedCall, rate_hz: int, frame: int) -> None:
    samples = call.sides["customer"][:48_000]
    if rate_hz != 8_000:
        samples = soxr.resample(samples, 8_000, rate_hz)
    events = models.hear(samples, rate_hz, frame if frame > 1 else 2_399)
    (said,) = [text for start_ms, _, text in call.turns["customer"] if start_ms < 5_000]
    assert word_errors(words_of(said), words_of(text_of(events))) <= 1


def test_clipping_does_not_stop_it(models: Models, call: RenderedCall) -> None:
    loud = np.clip(call.sides["customer"].astype(int) * 12, -32_768, 32_767).astype(np.int16)
    assert error_rate(call, "customer", models.hear(loud)) <= 0.3


def test_a_quiet_caller_is_heard(models: Models, call: RenderedCall) -> None:
    quiet = (call.sides["agent"] // 8).astype(np.int16)
    assert error_rate(call, "agent", models.hear(quiet)) <= 0.15


def test_two_at_once_are_two_streams(models: Models, call: RenderedCall) -> None:
    """Both speak over each other; each is on a channel of their own and neither disturbs the other."""
    at = {speaker: call.turns[speaker][0][0] * 8 for speaker in call.sides}
    shifted = call.sides["agent"][max(0, at["agent"] - at["customer"]) :]
    for speaker, samples in (("customer", call.sides["customer"]), ("agent", shifted)):
        assert error_rate(call, speaker, models.hear(samples)) <= 0.1


def tone(frequencies_hz: list[float], seconds: float, level: int = 6_000) -> Int16:
    time_s = np.arange(int(8_000 * seconds)) / 8_000
    mixed = sum(np.sin(2 * np.pi * f * time_s) for f in frequencies_hz)
    return (level * mixed / len(frequencies_hz)).astype(np.int16)


def melody() -> Int16:
    """Music on hold: chords that change twice a second, each struck and fading, with a drum."""
    rng = np.random.default_rng(3)
    bars = []
    for chord in ([262, 330, 392], [220, 262, 330], [175, 220, 262], [196, 247, 294]) * 8:
        fade = np.exp(-np.arange(4_000) / 1_600)
        drum = rng.standard_normal(4_000) * np.exp(-np.arange(4_000) / 200) * 2_000
        bars.append((tone([float(f) for f in chord], 0.5, 9_000) * fade + drum).astype(np.int16))
    return np.concatenate(bars)


def noise(level: float, seconds: float = 15.0) -> Int16:
    return (np.random.default_rng(1).standard_normal(int(8_000 * seconds)) * level).astype(np.int16)


NOTHING_SAID = {
    "silence": np.zeros(60 * 8_000, np.int16),
    "line noise": noise(12, 30),
    "loud noise": noise(3_000),
    "hum": tone([50, 100, 150], 15),
    "dial tone": tone([350, 440], 15),
    "busy tone": np.concatenate([tone([480, 620], 0.5), np.zeros(4_000, np.int16)] * 12),
    "keypad": np.concatenate([np.concatenate([tone([697, 1_336], 0.15), np.zeros(1_600, np.int16)])] * 20),
    "music": melody(),
    "clicks": np.where(np.arange(80_000) % 4_000 < 40, 20_000, 0).astype(np.int16),
    "full scale square": np.where(np.arange(80_000) % 80 < 40, 32_767, -32_768).astype(np.int16),
}


@pytest.mark.parametrize("sound", NOTHING_SAID)
def test_what_is_no_speech_gives_no_text(models: Models, sound: str) -> None:
    events = models.hear(NOTHING_SAID[sound])
    assert [event.text for event in events if isinstance(event, Interim | Final) and event.text] == []
    covered = [event.covered_ms for event in events if isinstance(event, Covered)]
    assert covered[-1] >= len(NOTHING_SAID[sound]) // 8 - 2_000
    assert len(covered) >= len(NOTHING_SAID[sound]) // 8_000 - 3, "covered stands still"


def test_speech_without_a_pause_is_cut_and_none_of_it_is_lost(models: Models, call: RenderedCall) -> None:
    pieces = []
    for speaker, turns in call.turns.items():
        for start_ms, end_ms, _ in turns:
            pieces.append(call.sides[speaker][start_ms * 8 : end_ms * 8 - 400])
    endless = np.concatenate(pieces * 5)
    events = models.hear(endless, frame=8_000)
    finals = [event for event in events if isinstance(event, Final)]
    assert max(final.end_ms - final.start_ms for final in finals) <= 15_200
    said = [word for turns in call.turns.values() for _, _, text in turns for word in words_of(text)] * 5
    assert word_errors(said, words_of(text_of(events))) / len(said) <= 0.35


def test_a_draft_changes_the_time_and_hardly_the_text(models: Models, call: RenderedCall) -> None:
    start_ms, end_ms, _ = call.turns["customer"][0]
    span = call.sides["customer"][start_ms * 8 - 1_600 : end_ms * 8 + 800]
    pcm = soxr.resample(span.astype(np.float32) / 32_768, 8_000, 16_000)
    plain = models.moonshine.decode(pcm)
    assert plain is not None
    wrong = tuple(reversed(plain.tokens))
    for draft in (plain.tokens, plain.tokens[:4], plain.tokens[2:], wrong, plain.tokens * 3):
        drafted = models.moonshine.decode(pcm, Hints(draft=draft))
        assert drafted is not None
        assert word_errors(words_of(plain.text), words_of(drafted.text)) <= 1


def test_a_decode_can_be_given_up(models: Models) -> None:
    assert models.moonshine.decode(np.zeros(16_000, np.float32), should_stop=lambda: True) is None


def test_no_audio_decodes_to_something_harmless(models: Models) -> None:
    decoded = models.moonshine.decode(np.zeros(0, np.float32))
    assert isinstance(decoded, Decoded)
    assert len(decoded.tokens) <= 12
