"""Through the real AWS client library and real sockets; the call's clock is the simulator's, nothing waits for it."""

import pytest

from server.simulators.connect.faults import KINDS, Fault, at_random
from tests.server.ingest.connect.rig import BLOCK_SAMPLES, Rig
from tests.server.ingest.connect.streams import FROM, TO, ZERO_MS, pcm

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _aws(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


async def test_nothing_is_lost_from_the_first_sample_to_the_last(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.speak(20)  # said before anybody listens
        await rig.service.begin("car_service", rig.contact(agent_id="anna", language="en"))
        await rig.speak(40, first=20)
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        rig.assert_whole(60)
        assert {(reason, roles) for _, roles, reason in rig.desk.stops} == {
            ("stopped", ("customer",)),
            ("stopped", ("agent",)),
        }
        assert {start[2:4] for start in rig.desk.starts} == {("anna", "en")}
        assert rig.simulator.selectors[0]["StartSelectorType"] == "PRODUCER_TIMESTAMP"


async def test_a_start_that_connect_named_too_late_loses_nothing(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.speak(40)
        contact = rig.contact(start_ms=ZERO_MS + 1_900)
        await rig.service.begin("car_service", contact)
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        rig.assert_whole(40)


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_the_stream_does_no_sample_is_lost_or_doubled(tmp_path, kind):
    faults = [Fault(kind, 3_000), Fault(kind, 20_000), Fault(kind, 45_001)]
    async with Rig(tmp_path, faults) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(70)
        await rig.heard(70)
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        rig.assert_whole(70)
        assert len(rig.simulator.selectors) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_random_faults_end_in_the_undisturbed_call(tmp_path, seed):
    async with Rig(tmp_path, at_random(("cut", "error", "garbage"), 40_000, seed), chunk_bytes=700) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(200)
        await rig.heard(200)
        rig.assert_whole(200)


async def test_another_process_goes_on_with_the_call_to_the_sample(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(30)
        await rig.heard(25)
        other = rig.new_service()
        await other.start()  # it has nothing to do yet
        await rig.service.stop()
        rig.service = other
        await other._take_over()
        await rig.speak(40, first=30)
        await rig.heard(70)
        assert other.num_contacts == 1
        await other.end("car_service", "contact-1")
        await rig.over(2)
        rig.assert_whole(70)
        resumed = rig.simulator.selectors[-1]
        assert resumed["StartSelectorType"] == "CONTINUATION_TOKEN"


async def test_a_server_that_lost_its_sources_is_sent_what_it_has_not_stored(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(40)
        await rig.heard(40)
        await rig.endpoint.stop()  # sends all away and forgets them, as a restart does
        covered = dict(rig.desk.covered)
        await rig.speak(30, first=40)
        await rig.heard(70)
        rig.assert_whole(70)
        assert all(0 < ms <= 40 * 64 for ms in covered.values())


async def test_a_stream_is_used_again_by_the_next_contact(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20)
        await rig.heard(20)
        rig.stream.end_fragment()
        await rig.speak(20, contact_id="contact-2", first=200)  # no contact event: the stream says it all the same
        await rig.over(2)
        rig.assert_whole(20)
        assert ("contact-2", "customer") not in rig.ears.heard


async def test_a_stream_that_stops_ends_its_contact_when_the_event_does_not_come(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20)
        rig.stream.close()
        await rig.over(2)
        rig.assert_whole(20)


async def test_one_side_alone_is_a_call(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20, tracks=(FROM,))
        await rig.speak(20, first=20)
        await rig.heard(20, roles=("agent",))
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        assert rig.ears.samples("contact-1", "customer") == pcm(FROM, 0, 40 * BLOCK_SAMPLES)
        assert min(rig.ears.heard["contact-1", "agent"]) == 20 * BLOCK_SAMPLES
        assert rig.ears.samples("contact-1", "agent") == pcm(TO, 20 * BLOCK_SAMPLES, 20 * BLOCK_SAMPLES)


async def test_hold_keeps_the_call_and_its_clock(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20)
        await rig.heard(20)
        sessions = len(rig.simulator.selectors)
        await rig.connected(sessions + 2)  # quiet, so it connected anew
        assert rig.desk.stops == []
        await rig.speak(20, first=50)
        await rig.heard(70)
        heard = rig.ears.samples("contact-1", "customer")
        assert heard[: 20 * 1024] == pcm(FROM, 0, 20 * BLOCK_SAMPLES)
        assert not any(heard[20 * 1024 : 50 * 1024])
        assert heard[50 * 1024 :] == pcm(FROM, 50 * BLOCK_SAMPLES, 20 * BLOCK_SAMPLES)
        assert len(rig.desk.starts) == 2  # one a side, from the first word to the last
        assert set(rig.ears.finalized) == {"customer", "agent"}  # what was said before is not kept open


async def test_a_long_hold_is_jumped_over(tmp_path):
    async with Rig(tmp_path) as rig:
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20)
        await rig.heard(20)
        await rig.speak(20, first=2000)  # two minutes later
        await rig.heard(40)
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        for track, role in ((FROM, "customer"), (TO, "agent")):
            heard = rig.ears.heard["contact-1", role]
            assert len(heard) <= (40 + 32) * BLOCK_SAMPLES  # one side is two seconds of silence behind, at most
            assert heard[2000 * BLOCK_SAMPLES] == pcm(track, 2000 * BLOCK_SAMPLES, 1)


async def test_a_contact_that_cannot_be_read_is_given_up_when_it_is_over(tmp_path):
    async with Rig(tmp_path) as rig:
        rig.simulator.streams.clear()  # no such stream
        await rig.service.begin("car_service", rig.contact())
        await rig.service.end("car_service", "contact-1")
        await rig.finished()
        assert rig.service.num_contacts == 0
        assert rig.desk.starts == []


async def test_an_agent_takes_the_call_wherever_it_is_read(tmp_path):
    async with Rig(tmp_path) as rig:
        other = rig.new_service()
        await other.assign("car_service", "contact-1", "anna")  # before its beginning, and elsewhere
        await rig.service.begin("car_service", rig.contact())
        await rig.speak(20)
        await rig.heard(20)
        await rig.service.assign("car_service", "contact-1", "ben")
        await other.assign("car_service", "contact-1", "carl")
        await rig.service._take_over()
        await rig.service.end("car_service", "contact-1")
        await rig.over(2)
        assert list(dict.fromkeys(agent for _, agent in rig.desk.assigned)) == ["anna", "ben", "carl"]


async def test_events_may_come_twice_in_any_order_and_to_any_process(tmp_path):
    async with Rig(tmp_path) as rig:
        other = rig.new_service()
        await other.end("car_service", "contact-1")  # before its beginning, and elsewhere
        await rig.speak(20)
        for _ in range(2):
            await rig.service.begin("car_service", rig.contact())
        await rig.over(2)
        rig.assert_whole(20)
        await rig.finished()
        await rig.service.begin("car_service", rig.contact())
        assert rig.service.num_contacts == 0
        assert len(rig.desk.starts) == 2
