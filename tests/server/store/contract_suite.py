"""What every `Store` promises. An implementation's test module subclasses the suite and hands it a started store."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.store.contract import UNANSWERED, Store, UtteranceRecord
from server.wire.ids import TenantId
from tests.examples import examples
from tests.server.store.records import TENANT, action, conversation, coverage, erasure, gap, receipt, utterance

OTHER = TenantId("retail_bank")


async def only(store: Store, conversation_id: str = "c1") -> dict[str, Any]:
    found = await store.conversation(TENANT, conversation_id)
    assert found is not None
    return found


class StoreSuite:
    """Needs a fixture `store`: started, empty, stopped afterwards."""

    async def test_what_was_stored_is_read(self, store: Store) -> None:
        await store.apply([conversation(), utterance(), action(), gap(), receipt()])
        found = await only(store)
        assert (found["tenant_id"], found["conversation_id"], found["state"]) == ("car_service", "c1", "started")
        assert (found["agent_id"], found["policy"], found["started_ms"]) == ("a1", "car_service/3", 1000.0)
        (said,) = found["utterances"]
        assert (said["utterance_id"], said["text"], said["is_final"]) == ("u1", "my oil light", False)
        assert said["words"] == [{"text": "my", "start_ms": 0, "end_ms": 100, "confidence": 0.5}]
        assert said["stages_ms"] == {"asr": 120.5}
        (card,) = found["actions"]
        assert card["action"]["evidence"][0]["rule"] == "moments.light.any[0]"
        assert (found["gaps"][0]["state"], found["receipts"][0]["event"]) == ("open", "shown")
        msgspec.json.encode(found)  # it is what REST answers

    async def test_an_unknown_conversation_is_none(self, store: Store) -> None:
        assert await store.conversation(TENANT, "nowhere") is None
        assert await store.conversations(TENANT, limit=10, before_ms=None) == []
        assert await store.covered_ms(TENANT, "nowhere", "customer") == 0
        assert await store.revisions(TENANT, "nowhere") == {}

    async def test_applying_twice_changes_nothing(self, store: Store) -> None:
        records = [conversation(), utterance("u1", 1), utterance("u1", 2, final=True), action(), receipt(), gap()]
        await store.apply(records)
        before = await only(store)
        await store.apply(records)
        await store.apply(records[::-1])
        assert await only(store) == before

    async def test_a_higher_revision_replaces_a_lower_one_never(self, store: Store) -> None:
        await store.apply([conversation(revision=2, state="ended"), action(revision=3, state="expire")])
        await store.apply([gap(2, "closed", 300), utterance(revision=5, text="newer")])
        await store.apply([conversation(), action(), gap(), utterance(revision=4, text="older")])
        found = await only(store)
        assert (found["state"], found["actions"][0]["state"]) == ("ended", "expire")
        assert (found["gaps"][0]["state"], found["gaps"][0]["to_ms"]) == ("closed", 300)
        assert found["utterances"][0]["text"] == "newer"

    async def test_an_interim_never_replaces_a_final(self, store: Store) -> None:
        await store.apply([conversation(), utterance(revision=2, text="final", final=True)])
        await store.apply([utterance(revision=9, text="late")])
        assert (await only(store))["utterances"][0]["text"] == "final"
        await store.apply([utterance(revision=10, text="better final", final=True)])
        assert (await only(store))["utterances"][0]["text"] == "better final"

    async def test_the_first_receipt_counts(self, store: Store) -> None:
        await store.apply([conversation(), receipt("shown", 5.0), receipt("used", 6.0)])
        await store.apply([receipt("shown", 9.0)])
        assert [(r["event"], r["at_ms"]) for r in (await only(store))["receipts"]] == [("shown", 5.0), ("used", 6.0)]

    async def test_utterances_come_in_audio_order(self, store: Store) -> None:
        await store.apply(
            [
                conversation(),
                utterance("b", start_ms=2000, end_ms=2500),
                utterance("a", start_ms=10_000, end_ms=10_500),
                utterance("c", start_ms=0, end_ms=500, speaker="agent"),
            ]
        )
        assert [said["utterance_id"] for said in (await only(store))["utterances"]] == ["c", "b", "a"]

    async def test_conversations_come_newest_first_in_pages(self, store: Store) -> None:
        await store.apply([conversation(f"c{n}", started_ms=1000.0 + n) for n in range(5)])
        page = await store.conversations(TENANT, limit=2, before_ms=None)
        assert [found["conversation_id"] for found in page] == ["c4", "c3"]
        page = await store.conversations(TENANT, limit=10, before_ms=page[-1]["started_ms"])
        assert [found["conversation_id"] for found in page] == ["c2", "c1", "c0"]

    async def test_covered_is_the_end_of_the_last_final_of_that_side(self, store: Store) -> None:
        await store.apply(
            [
                utterance("u1", final=True, end_ms=900),
                utterance("u2", final=True, start_ms=1000, end_ms=1700),
                utterance("u3", start_ms=2000, end_ms=9000),
                utterance("u4", final=True, speaker="agent", start_ms=3000, end_ms=4000),
            ]
        )
        assert await store.covered_ms(TENANT, "c1", "customer") == 1700
        assert await store.covered_ms(TENANT, "c1", "agent") == 4000

    async def test_covered_reaches_as_far_as_what_was_acknowledged(self, store: Store) -> None:
        await store.apply([utterance("u1", final=True, end_ms=900), coverage(60_000), coverage(700, "agent")])
        await store.apply([coverage(50_000)])
        assert await store.covered_ms(TENANT, "c1", "customer") == 60_000
        assert await store.covered_ms(TENANT, "c1", "agent") == 700

    async def test_revisions_tell_a_resumed_call_where_it_was(self, store: Store) -> None:
        await store.apply([utterance("u1", 3, final=True), utterance("u2", 7)])
        assert await store.revisions(TENANT, "c1") == {"u1": (3, True), "u2": (7, False)}

    async def test_what_was_not_answered_is_told_to_its_tenant(self, store: Store) -> None:
        await store.apply([conversation(), action(), action(f"{UNANSWERED}u1"), action(f"{UNANSWERED}ask:1")])
        found = await store.unanswered(TENANT, 10)
        assert [(each["conversation_id"], each["question"]) for each in found] == [("c1", "Offer the reset")] * 2
        assert found[0]["evidence"][0]["text"] == "my oil light"
        assert len(await store.unanswered(TENANT, 1)) == 1
        assert await store.unanswered(OTHER, 10) == []

    async def test_tenants_never_meet(self, store: Store) -> None:
        await store.apply([conversation(), utterance(text="mine", final=True)])
        await store.apply([conversation(tenant_id=OTHER), utterance(text="theirs", tenant_id=OTHER, final=True)])
        assert [u["text"] for u in (await only(store))["utterances"]] == ["mine"]
        assert len(await store.conversations(OTHER, limit=10, before_ms=None)) == 1
        await store.apply([utterance("u9", tenant_id=OTHER, conversation_id="c2", final=True)])
        assert await store.conversation(TENANT, "c2") is None
        assert await store.revisions(TENANT, "c2") == {}
        assert await store.covered_ms(TENANT, "c2", "customer") == 0

    @pytest.mark.parametrize(
        "text",
        ["", "naïve 日本語 \U0001f600 \U000e0041 ‏مرحبا", "word " * 10_000, "'; DROP TABLE x; --", "nul \x00 byte"],
    )
    async def test_any_text_comes_back_as_it_was(self, store: Store, text: str) -> None:
        await store.apply([conversation(), utterance(text=text)])
        assert (await only(store))["utterances"][0]["text"] == text

    async def test_an_erased_conversation_is_gone_and_stays_gone(self, store: Store) -> None:
        everything = [conversation(), utterance(final=True), action(), receipt(), gap(), coverage()]
        other = conversation(tenant_id=OTHER)
        await store.apply([*everything, other, utterance("u9", conversation_id="c2")])
        await store.apply([erasure()])
        await store.apply(everything)  # late, from another process's journal
        assert await store.conversation(TENANT, "c1") is None
        assert await store.revisions(TENANT, "c1") == {}
        assert await store.covered_ms(TENANT, "c1", "customer") == 0
        assert not await store.has_action(TENANT, "c1", "a1")
        assert await store.revisions(TENANT, "c2") == {"u9": (1, False)}
        assert await store.conversation(OTHER, "c1") is not None

    @pytest.mark.parametrize("place", [0, 1, 3])
    async def test_an_erasure_counts_wherever_it_stands_in_a_batch(self, store: Store, place: int) -> None:
        batch: list[Any] = [conversation(), utterance("u1"), utterance("u2")]
        batch.insert(place, erasure())
        await store.apply([utterance("before"), *batch])
        await store.apply(batch)
        assert await store.revisions(TENANT, "c1") == {}

    async def test_the_receipt_says_what_was_erased_and_for_whom(self, store: Store) -> None:
        await store.apply([conversation(), utterance("u1"), utterance("u2"), action()])
        await store.apply([erasure()])
        await store.apply([erasure()])
        (found,) = await store.erasures(TENANT, "r1")
        assert (found["conversation_id"], found["requested_by"], found["reason"]) == ("c1", "admin", "request")
        assert {name: num for name, num in found["num_rows"].items() if num} == {
            "conversations": 1,
            "utterances": 2,
            "actions": 1,
        }
        assert await store.erasures(OTHER, "r1") == []

    async def test_conversations_are_found_by_customer_and_by_age(self, store: Store) -> None:
        await store.apply(
            [
                conversation("c1", started_ms=1.0, customer_id="ann"),
                conversation("c2", started_ms=2.0, customer_id="bob"),
                conversation("c3", started_ms=3.0, customer_id="ann"),
                conversation("c4", started_ms=0.5, customer_id="ann", tenant_id=OTHER),
            ]
        )
        assert sorted(await store.of_customer(TENANT, "ann")) == ["c1", "c3"]
        assert await store.begun_before(TENANT, 3.0, 10) == ["c1", "c2"]
        assert await store.begun_before(TENANT, 3.0, 1) == ["c1"]
        await store.apply([conversation("c1", revision=2, state="ended", started_ms=1.0, customer_id="ann")])
        c3 = conversation("c3", started_ms=3.0, customer_id="ann")
        assert await store.unended(TENANT, 10) == [c3, conversation("c2", started_ms=2.0, customer_id="bob")]
        assert await store.unended(TENANT, 1) == [c3]
        assert sorted(await store.tenants()) == sorted([TENANT, OTHER])

    async def test_whose_and_whether(self, store: Store) -> None:
        await store.apply([conversation(), action()])
        assert await store.agent_of(TENANT, "c1") == (True, "a1")
        assert await store.agent_of(OTHER, "c1") == (False, None)
        assert await store.has_action(TENANT, "c1", "a1")
        assert not await store.has_action(OTHER, "c1", "a1")

    async def test_a_batch_is_one_transaction(self, store: Store) -> None:
        broken = utterance("u2", revision=2**70)
        with pytest.raises(Exception, match=r".") as caught:
            await store.apply([utterance("u1"), broken])
        assert caught.value is not None
        assert await store.revisions(TENANT, "c1") == {}

    # One suite for several stores is the point here, and each example has its own conversation.
    @settings(
        max_examples=examples(25),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    async def test_any_order_and_any_batches_leave_the_same(self, store: Store, data: st.DataObject) -> None:
        """Whatever was delivered late, twice or in other batches."""
        name = f"c{next(_COUNTER)}"
        num_revisions = data.draw(st.integers(1, 6))
        finals = data.draw(st.sets(st.integers(1, num_revisions)))
        records = [
            utterance(uid, revision, f"{uid} {revision}", final=revision in finals, conversation_id=name)
            for uid in ("u1", "u2")
            for revision in range(1, num_revisions + 1)
        ]
        records += data.draw(st.lists(st.sampled_from(records), max_size=5))
        shuffled: list[UtteranceRecord] = data.draw(st.permutations(records))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(shuffled)), max_size=4)))
        for start, end in itertools.pairwise([0, *cuts, len(shuffled)]):
            await store.apply(shuffled[start:end])
        expected = (max(finals, default=num_revisions), bool(finals))
        assert await store.revisions(TENANT, name) == {"u1": expected, "u2": expected}


_COUNTER = itertools.count()
