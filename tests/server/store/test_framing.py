from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.store.framing import MAX_PAYLOAD_BYTES, frame, scan

PAYLOADS = st.lists(st.binary(max_size=40), max_size=8)


@given(PAYLOADS)
def test_what_was_framed_is_found(payloads: list[bytes]) -> None:
    data = b"".join(map(frame, payloads))
    found = scan(data)
    assert found.payloads == payloads
    assert (found.sound_bytes, found.skipped_bytes) == (len(data), 0)
    assert found.ends == [len(b"".join(map(frame, payloads[: n + 1]))) for n in range(len(payloads))]


@given(PAYLOADS, st.data())
def test_a_torn_end_costs_the_torn_frame_only(payloads: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, payloads))
    cut = data.draw(st.integers(0, len(whole)))
    found = scan(whole[:cut] + data.draw(st.binary(max_size=20)))
    survivors = [p for n, p in enumerate(payloads) if len(b"".join(map(frame, payloads[: n + 1]))) <= cut]
    assert found.payloads[: len(survivors)] == survivors
    assert scan(whole[:cut]).payloads == survivors


@given(PAYLOADS.filter(bool), st.data())
def test_a_damaged_byte_costs_the_frame_it_hit_only(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(b"".join(map(frame, payloads)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    hit = sum(1 for n in range(len(payloads)) if len(b"".join(map(frame, payloads[: n + 1]))) <= at)
    found = scan(bytes(whole))
    assert found.payloads == payloads[:hit] + payloads[hit + 1 :]
    if hit < len(payloads) - 1:
        assert found.skipped_bytes == len(frame(payloads[hit]))


@given(st.binary(max_size=300))
def test_any_bytes_can_be_scanned(data: bytes) -> None:
    assert scan(data).sound_bytes <= len(data)


def test_zeros_are_no_frames() -> None:
    assert scan(bytes(4096)).payloads == []


def test_too_long_a_payload_is_an_error() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return MAX_PAYLOAD_BYTES + 1

    with pytest.raises(ValueError, match="too long"):
        frame(Long())
