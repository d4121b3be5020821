from server.replay.report import ReplayReport, summarise
from server.wire.clock import Stamps
from server.wire.publication import Publication

ZERO_S = 100.0
"""Monotonic time of audio zero in these tests; wall time is 1,000,000 ms there."""
WALL_MS = 1_000_000.0


NO_STAMPS = Stamps()


class Call:
    """Publishes with growing offsets and receives a millisecond after each append."""

    def __init__(self, **kwargs):
        self.report = ReplayReport("c1", zero_s=ZERO_S, **kwargs)
        self.offset = 0

    def publish(self, kind, payload, at_ms, stamps=NO_STAMPS, offset=None):
        self.offset = offset or self.offset + 1
        publication = Publication(ch="call:c1", ep="e", off=self.offset, kind=kind, t=stamps, d=payload)
        self.report.add(publication, ZERO_S + at_ms / 1000, WALL_MS + at_ms)

    def transcript(
        self, at_ms, *, final, end_ms=1000, text="hello there", utterance_id="customer-200", stamps=NO_STAMPS
    ):
        payload = {
            "utterance_id": utterance_id,
            "revision": 1,
            "speaker": "customer",
            "start_ms": 200,
            "end_ms": end_ms,
            "text": text,
            "is_final": final,
        }
        self.publish("transcript", payload, at_ms, stamps)

    def action(self, at_ms, *, is_final=True, utterance_id="customer-200"):
        evidence = [{"utterance_id": utterance_id, "text": "hello there", "is_final": is_final}]
        payload = {"id": "a-1", "type": "hint", "title": "Do it", "state": "new", "evidence": evidence}
        self.publish("action", payload, at_ms)


def test_latencies_are_on_the_audio_clock():
    call = Call()
    call.transcript(650, final=False, end_ms=500)
    call.transcript(800, final=False, end_ms=700)
    call.transcript(1300, final=True)
    call.action(1312)
    call.publish("call", {"state": "ended"}, 1400)
    built = call.report.build()
    p50 = {name: row["p50"] for name, row in built["latency_ms"].items()}
    assert p50 == {
        "speech_to_interim": 450.0,  # only the first interim of an utterance counts
        "speech_end_to_final": 300.0,
        "final_to_action": 12.0,
        "speech_end_to_action": 312.0,
        "speech_end_to_interim_action": None,
    }
    assert (built["utterances"], built["interims"], built["actions"], built["feed_lost"]) == (1, 2, 1, 0)
    assert built["transcript"] == [{"speaker": "customer", "start_ms": 200, "end_ms": 1000, "text": "hello there"}]
    assert built["guidance"][0]["at_ms"] == 1312
    assert call.report.is_ended


def test_actions_from_interims_are_counted_apart():
    call = Call()
    call.transcript(650, final=False, end_ms=500)
    call.action(700, is_final=False)
    call.transcript(1300, final=True)
    latency = call.report.build()["latency_ms"]
    assert latency["speech_end_to_action"]["n"] == latency["final_to_action"]["n"] == 0
    assert latency["speech_end_to_interim_action"]["p50"] == -300.0


def test_stages_come_from_stamps_once_each():
    call = Call()
    stamps = Stamps(t0=WALL_MS + 1000, t1=WALL_MS + 1010, t3=WALL_MS + 1290, t4=WALL_MS + 1291, t8=WALL_MS + 1292)
    call.transcript(1300, final=True, stamps=stamps)
    annotation = Stamps(
        t0=stamps.t0, t1=stamps.t1, t3=stamps.t3, t4=stamps.t4, t6=WALL_MS + 1293, t7=WALL_MS + 1297, t8=WALL_MS + 1298
    )
    call.publish("annotation", {"utterance_id": "customer-200"}, 1302, annotation)
    stages = call.report.build()["stages_ms"]
    assert {name: (row["n"], row["p50"]) for name, row in stages.items() if row["n"]} == {
        "network": (1, 10.0),
        "asr": (1, 280.0),
        "transcript": (1, 1.0),
        "orchestrator": (1, 2.0),
        "inference": (1, 4.0),
        "publish": (1, 1.0),
        "socket": (2, 6.0),
    }


def test_missing_offsets_are_lost_and_repeats_are_not_counted():
    call = Call()
    call.transcript(500, final=True)
    call.publish("notice", {"code": "x"}, 600, offset=5)
    call.publish("notice", {"code": "x"}, 600, offset=5)
    assert call.report.build()["feed_lost"] == 3


def test_a_fast_replay_measures_only_what_does_not_need_the_clock():
    call = Call(is_real_time=False)
    call.transcript(50, final=True)
    call.action(60)
    built = call.report.build()
    assert built["latency_ms"]["speech_end_to_final"]["n"] == 0
    assert built["latency_ms"]["final_to_action"]["p50"] == 10.0
    assert built["guidance"][0]["at_ms"] == 1000


def test_empty_finals_are_no_utterances():
    call = Call()
    call.transcript(500, final=True, text="")
    assert call.report.build()["utterances"] == 0


def test_percentiles_of_nothing_are_null():
    assert summarise([]) == {"n": 0, "p50": None, "p95": None, "p99": None, "max": None}
    assert summarise([1.0, 2.0, 3.0])["max"] == 3.0
