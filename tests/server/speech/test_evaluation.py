from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.speech.contract import Closed
from server.speech.evaluation import evaluate
from server.speech.prompts import read_prompts
from server.speech.scripted import Heard, ScriptedRecogniser, spoken
from server.wire.errors import Overloaded, Unavailable
from tests.server.speech.prompts_folder import install
from tests.virtual_time import virtual_time


@virtual_time
async def test_each_prompt_is_a_side_of_a_call(tmp_path: Path) -> None:
    prompts = read_prompts("en", install(tmp_path, {"greeting": np.zeros(8_000, np.int16)}))
    recogniser = ScriptedRecogniser({"customer": spoken("thank you for falling", 100, 900)})
    done: list[int] = []
    result = await evaluate(recogniser, prompts, "en", progress=lambda: done.append(1))
    assert result.heard == ("thank you for falling",)
    assert (result.errors.words, result.errors.rate, result.audio_s) == (4, 0.25, 1.0)
    assert done == [1]
    assert recogniser.streams[0].now_ms == 1_600, "the silence after it ends the utterance"


@virtual_time
async def test_a_lost_stream_is_no_result(tmp_path: Path) -> None:
    prompts = read_prompts("en", install(tmp_path, {"greeting": np.zeros(8_000, np.int16)}))
    recogniser = ScriptedRecogniser({"customer": [Heard(500, Closed(Unavailable("gone")))]})
    with pytest.raises(Unavailable, match="lost a stream"):
        await evaluate(recogniser, prompts, "en")


@virtual_time
async def test_a_recogniser_that_is_behind_is_waited_for(tmp_path: Path) -> None:
    prompts = read_prompts("en", install(tmp_path, {"greeting": np.zeros(8_000, np.int16)}))
    recogniser = Behind({"customer": spoken("thank you for calling", 100, 900)})
    result = await evaluate(recogniser, prompts, "en")
    assert result.errors.rate == 0
    assert recogniser.streams[0].now_ms == 1_600, "nothing was left out"


class Behind(ScriptedRecogniser):
    """Has no room at the first offer of each second block."""

    async def open(self, call):
        stream = await super().open(call)
        send, refused = stream.send, set()

        async def offer(pcm):
            if stream.now_ms % 40 == 0 and stream.now_ms not in refused:
                refused.add(stream.now_ms)
                raise Overloaded("behind")
            await send(pcm)

        stream.send = offer
        return stream
