from server.wire.clock import STAGES, Stamps, stage_durations_ms

FULL = Stamps(
    t0=1000.0, t1=1040.0, t2=1041.0, t3=1300.5, t4=1301.0, t5=1301.2, t6=1302.0, t7=1309.0, t8=1309.4, frame_ms=20
)


def test_durations_are_spans_of_stamps():
    durations = stage_durations_ms(FULL)
    assert durations == {
        "audio_capture": 20,
        "network": 40.0,
        "asr": 260.5,
        "transcript": 0.5,
        "orchestrator": 1.0,
        "inference": 7.0,
        "publish": 0.4,
    }
    assert list(durations) == [stage for stage in STAGES if stage in durations]


def test_stages_sum_to_end_to_end():
    durations = stage_durations_ms(FULL)
    assert sum(durations.values()) - durations["audio_capture"] == round(FULL.t8 - FULL.t0, 3)


def test_what_was_not_passed_is_left_out():
    assert stage_durations_ms(Stamps(t3=5.0, t4=6.0)) == {"transcript": 1.0}
    assert stage_durations_ms(Stamps()) == {}
