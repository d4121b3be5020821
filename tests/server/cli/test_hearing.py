"""The embedded voice over a telephone line into the embedded recogniser."""

from __future__ import annotations

import pytest

from server.cli.hearing import TelephoneLine


@pytest.mark.slow
def test_speech_comes_back_as_words_and_marks_alone_as_nothing() -> None:
    heard = TelephoneLine().hear(["Please cancel my appointment on Friday.", "?!", ""])
    assert "cancel my appointment" in heard[0].lower()
    assert heard[1:] == ["", ""]
