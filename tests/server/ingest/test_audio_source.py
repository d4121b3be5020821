import asyncio

import pytest

from server.ingest.audio import AudioFormat
from server.ingest.audio_source import AudioSource
from server.speech.contract import EndOfSpeech
from server.wire.errors import Unavailable
from tests.virtual_time import virtual_time

FORMAT = AudioFormat("linear16", 8000, ("customer",))


class Stream:
    """Says that everything sent so far is covered, at each frame."""

    def __init__(self):
        self._events = asyncio.Queue()
        self._sent_ms = 0

    async def send(self, pcm):
        self._sent_ms += len(pcm) // 16
        self._events.put_nowait(EndOfSpeech(self._sent_ms, self._sent_ms))

    async def close(self):
        self._events.put_nowait(None)

    async def events(self):
        while (event := await self._events.get()) is not None:
            yield event


class Recogniser:
    async def open(self, call):
        assert call.keyterms == ("oil light",)
        return Stream()


class Call:
    """Stores, or fails while `is_broken`."""

    def __init__(self):
        self.is_broken = False

    keyterms = ("oil light",)

    def resume_ms(self):
        return 0

    async def on_speech(self, speaker, event, stamps):
        pass

    async def stored(self, covered_ms):
        if self.is_broken:
            raise Unavailable("the disk fails")


@virtual_time
async def test_acknowledgements_go_on_after_the_disk_failed():
    call, told = Call(), []

    async def tell(stored_ms):
        told.append(stored_ms)

    source = AudioSource("t", "c", "en", FORMAT, call, Recogniser())
    source.on_stored = tell
    await source.open()
    for call.is_broken in (False, True, False):
        await source.feed(b"\0" * 320, 0.0)
        await asyncio.sleep(1)
    await source.close()
    assert told == [20, 60]


async def test_a_side_that_joins_late_starts_at_its_own_time():
    source = AudioSource("t", "c", "en", FORMAT, Call(), Recogniser(), start_ms=4_000)
    assert source.arrivals.end_ms == 4_000
    assert source.speech_call("customer", int(source.arrivals.end_ms)).start_ms == 4_000


@virtual_time
@pytest.mark.parametrize(
    ("lost_from_ms", "stored_ms", "gaps"),
    [
        (None, 0, []),
        (None, 5_000, []),
        (1_000, 0, [(1_000, 4_000)]),
        (1_000, 3_000, [(3_000, 4_000)]),
        (1_000, 5_000, []),
    ],
)
async def test_what_its_sender_has_no_more_is_a_gap_as_far_as_it_is_not_stored(lost_from_ms, stored_ms, gaps):
    told = []

    class Storing(Call):
        def resume_ms(self):
            return stored_ms

        async def on_speech(self, speaker, event, stamps):
            told.append((event.from_ms, event.to_ms))

    source = AudioSource("t", "c", "en", FORMAT, Storing(), Recogniser(), start_ms=4_000, lost_from_ms=lost_from_ms)
    await source.open()
    await source.close()
    assert told == gaps


def test_a_source_that_has_nothing_of_before_begins_now():
    class Going(Call):
        def now_ms(self):
            return 7_000

    assert AudioSource("t", "c", "en", FORMAT, Going(), Recogniser(), is_live=True).arrivals.end_ms == 7_000
    assert AudioSource("t", "c", "en", FORMAT, Going(), Recogniser()).arrivals.end_ms == 0
