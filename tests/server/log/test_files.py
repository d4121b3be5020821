from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from server.keys.keyring import DataCipher
from server.log import open_files
from server.log.channel import Channel
from server.log.contract import ChannelKey, Entry, Position
from server.log.files import Append, ChannelFiles, Job, Remove, Replace
from server.log.frames import (
    MAX_BATCH_BYTES,
    Batch,
    Complete,
    Contents,
    Opened,
    Outline,
    Remembered,
    Stored,
    contents,
    in_epoch,
)
from server.store.framing import frame
from server.wire.errors import ConfigError
from server.wire.ids import TenantId
from tests.examples import examples
from tests.server.log.events import CALL, content, decoded, transcript

CIPHER = DataCipher(b"\x01\x0bcar_service\x00\x07wrapped", bytes(range(32)))


def entries(number: int, epoch: str = "e" * 16, key: ChannelKey = CALL) -> tuple[Entry, ...]:
    channel = Channel(key, epoch)
    return channel.append([transcript(f"u{n}", n + 1, f"words {n}") for n in range(number)], 0.0, 1.0)


def append(*items: Entry | Opened | Complete, key: ChannelKey = CALL) -> Append:
    return Append(key, Position("e", 0), items, CIPHER)


def opened(folder: Path) -> ChannelFiles:
    files = ChannelFiles(folder)
    files.open()
    return files


def whole(files: ChannelFiles, number: int = 5) -> tuple[Entry, ...]:
    """A complete file of as many batches."""
    made = entries(number)
    files.write([append(Opened("e" * 16, 0, is_sealed=True), made[0])])
    for entry in made[1:]:
        files.write([append(entry)])
    files.write([append(Complete(files.generation, number))])
    return made


def outlined(files: ChannelFiles, key: ChannelKey = CALL) -> Outline:
    outline = files.read(key)
    assert outline is not None
    return outline


def held(files: ChannelFiles, key: ChannelKey = CALL) -> Contents:
    outline = outlined(files, key)
    found = contents(key, outline, {CIPHER.header: CIPHER})
    return replace(found, entries=tuple(in_epoch(entry, outline.epoch) for entry in found.entries))


def test_what_was_written_is_read_and_certain(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = whole(files)
    assert outlined(files).is_certain
    found = held(files).entries
    assert [entry.body for entry in found] == [entry.body for entry in made]
    assert found[0].appended_s == pytest.approx(made[0].appended_s, abs=0.1)
    assert files.read(ChannelKey(TenantId("x"), "y")) is None
    files.close()


def test_without_the_key_it_says_where_it_stands_and_no_word(tmp_path: Path) -> None:
    files = opened(tmp_path)
    whole(files)
    outline = outlined(files)
    assert (outline.epoch, outline.floor, outline.last, outline.is_certain) == ("e" * 16, 0, 5, True)
    assert set(outline.sealed()) == {CIPHER.header}
    data = files.path(CALL).read_bytes()
    # Long words only: two bytes stand in a sealed file by chance now and then.
    assert not [word for word in (b"words", b"transcript", b"customer", b"utterance_id") if word in data]
    files.close()


def test_a_batch_put_elsewhere_opens_nowhere(tmp_path: Path) -> None:
    """In another channel's file, or under other offsets in its own."""
    files = opened(tmp_path)
    whole(files)
    other = ChannelKey(CALL.tenant_id, "call:c2")
    files.path(CALL).rename(files.path(other))
    assert held(files, other).entries == ()
    assert held(files, other).skipped_bytes
    (batch, *_) = [item for item in outlined(files, other).items if isinstance(item, Batch)]
    moved = Outline("e", 0, 9, True, 0, (Batch(9, 9, batch.value),))
    assert contents(CALL, moved, {CIPHER.header: CIPHER}).entries == ()
    files.close()


def test_what_was_written_together_is_sealed_in_one_go_up_to_a_size(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = entries(600)
    body_bytes = sum(len(entry.body) for entry in made)
    files.write([append(Opened("e" * 16, 0, is_sealed=True), *made[:3]), append(*made[3:6])])
    assert len(outlined(files).items) == 1
    long = [structs.replace(entry, body=entry.body + b" " * 2000) for entry in made[6:]]
    files.write([append(*long)])
    batches = len(outlined(files).items) - 1
    assert batches == pytest.approx((body_bytes + 2000 * 594) / MAX_BATCH_BYTES, abs=1)
    assert content(held(files).entries) == content(made)
    files.close()


def test_a_file_in_the_clear_is_read_found_and_sealed(tmp_path: Path) -> None:
    """As a version wrote it that knew no batches; its positions stay good."""
    files = opened(tmp_path)
    made = entries(5)
    items = [Opened("e" * 16, 0), Remembered(b"words too"), *map(stored, made), Complete(files.generation, 5)]
    path = files.path(CALL)
    path.parent.mkdir()
    # The third field of `Opened` is new.
    plain = [msgspec.msgpack.encode(item) for item in items]
    plain[0] = msgspec.msgpack.encode(["o", "e" * 16, 0])
    path.write_bytes(b"".join(map(frame, plain)))
    assert b"words" in path.read_bytes()
    whole_elsewhere = ChannelKey(CALL.tenant_id, "call:c2")
    files.write([append(Opened("e" * 16, 0, is_sealed=True), *entries(2, key=whole_elsewhere), key=whole_elsewhere)])
    assert files.in_the_clear() == [CALL]
    for _ in range(2):
        assert outlined(files).is_certain
        assert content(held(files).entries) == content(made)
        assert held(files).memory == b"words too"
        files.reseal(CALL, CIPHER)
        assert b"words" not in path.read_bytes()
    assert files.in_the_clear() == []
    files.close()


def test_a_damaged_file_in_the_clear_is_sealed_and_not_called_complete(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = entries(3)
    items = [Opened("e" * 16, 0), *map(stored, made), Complete(files.generation, 3)]
    data = b"".join(frame(msgspec.msgpack.encode(item)) for item in items)
    path = files.path(CALL)
    path.parent.mkdir()
    path.write_bytes(data.replace(b"words 1", b"wordz 1"))
    files.reseal(CALL, CIPHER)
    assert not outlined(files).is_certain
    assert (held(files).floor, [entry.position.offset for entry in held(files).entries]) == (2, [1, 3])
    files.close()


def stored(entry: Entry) -> Stored:
    position = entry.position
    return Stored(position.offset, position.epoch, entry.kind, entry.key, entry.is_interim, False, 0.0, entry.body)


def test_a_file_that_a_crash_left_beside_is_removed(tmp_path: Path) -> None:
    files = opened(tmp_path)
    whole(files)
    beside = files.path(CALL).with_name("call:c1.log.new")
    beside.write_bytes(b"words")
    files.close()
    files = opened(tmp_path)
    assert not beside.exists()
    files.close()


@pytest.mark.parametrize("is_clean", [True, False])
def test_only_a_clean_stop_leaves_certainty(tmp_path: Path, is_clean: bool) -> None:
    files = opened(tmp_path)
    whole(files)
    if is_clean:
        files.mark_clean()
    files.close()
    files = opened(tmp_path)
    assert outlined(files).is_certain is is_clean
    files.close()
    again = opened(tmp_path)  # this run did not end well: nobody knows what it showed
    assert not outlined(again).is_certain
    again.close()


def test_a_lost_generation_makes_everything_uncertain(tmp_path: Path) -> None:
    files = opened(tmp_path)
    whole(files)
    files.mark_clean()
    files.close()
    (tmp_path / "generation").write_bytes(b"\x00\x01")
    files = opened(tmp_path)
    assert not outlined(files).is_certain
    files.close()


@settings(deadline=None, max_examples=examples(200))
@given(data=st.data())
def test_cut_or_spoiled_anywhere_it_is_read_and_never_called_certain(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = opened(Path(name))
        made = whole(files)
        path = files.path(CALL)
        original = path.read_bytes()
        spoiled = bytearray(original)
        if data.draw(st.booleans()):
            del spoiled[data.draw(st.integers(0, len(spoiled) - 1)) :]
            spoiled += data.draw(st.binary(max_size=20))
        else:
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= 0x55
        path.write_bytes(spoiled)
        outline = outlined(files)
        found = held(files)
        said = content(in_epoch(entry, "x") for entry in made)
        assert [item for item in content(found.entries) if item not in said] == []
        if bytes(spoiled) != original:
            assert not outline.is_certain
        complete = [entry.position.offset for entry in found.entries if entry.position.offset > found.floor]
        assert complete == list(range(found.floor + 1, outline.last + 1))
        files.close()


def test_a_new_epoch_holds_for_what_stood_before_it(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = whole(files)
    later = entries(6, epoch="f" * 16)[-1]
    files.write([append(Opened("f" * 16, 0), later)])
    found = held(files).entries
    assert {decoded(entry)["ep"] for entry in found} == {"f" * 16}
    assert {entry.position.epoch for entry in found} == {"f" * 16}
    assert content(found) == content((*made, later))
    files.close()


def test_words_that_look_like_an_envelope_stay_as_they_are(tmp_path: Path) -> None:
    channel = Channel(CALL, "e" * 16)
    text = f'"ep":"{"e" * 16}"'
    (entry,) = channel.append([transcript("u1", 1, text)], 0.0, 1.0)
    moved = in_epoch(entry, "f" * 16)
    assert decoded(moved)["ep"] == "f" * 16
    assert decoded(moved)["d"]["text"] == text


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_batch_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    files = opened(tmp_path)
    other = ChannelKey(TenantId("car_service"), "call:c2")
    made = entries(4)
    files.write([append(Opened("e" * 16, 0), *made[:2]), append(Opened("e" * 16, 0), *made[:2], key=other)])
    batch: list[Job] = [
        append(*made[2:]),
        append(made[2], Complete(files.generation, 3), key=other),
        append(*entries(1), key=ChannelKey(TenantId("new"), "call:c3")),
    ]
    real = os.write
    calls = 0

    def fails(*_: object) -> object:
        raise OSError(errno.ENOSPC, "no space")

    def half_of_the_second(descriptor: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.ENOSPC, "no space")
        return real(descriptor, data[: len(data) // 2] if calls == 2 else data)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails if call == "fsync" else half_of_the_second)
        with pytest.raises(OSError, match="no space"):
            files.write(batch)
    files.write(batch)
    for key, number in ((CALL, 4), (other, 3)):
        assert [entry.position.offset for entry in held(files, key).entries] == list(range(1, number + 1))
    files.close()


def test_more_files_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "MAX_OPEN", 2)
    files = opened(tmp_path)
    keys = [ChannelKey(TenantId("car_service"), f"call:c{number}") for number in range(3)]
    made = entries(4)
    before = len(os.listdir("/proc/self/fd"))
    for key in keys:
        files.write([append(Opened("e" * 16, 0), *made[:2], key=key)])
    files.write([append(*made[2:], key=key) for key in keys])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert all([entry.position.offset for entry in held(files, key).entries] == [1, 2, 3, 4] for key in keys)
    files.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_files_kept_open_leave_room_where_a_process_may_have_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    files = opened(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        files.write([append(*entries(1), key=ChannelKey(TenantId("t"), f"call:{number}"))])
    assert len(os.listdir("/proc/self/fd")) == before + 16
    files.close()


def test_where_others_took_all_room_the_log_gives_up_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = opened(tmp_path)
    keys = [ChannelKey(TenantId("t"), f"call:{number}") for number in range(5)]
    made = entries(2)
    files.write([append(made[0], key=key) for key in keys[:3]])
    num_open = len(os.listdir("/proc/self/fd"))
    real = os.open

    def full(*arguments: Any) -> int:
        if len(os.listdir("/proc/self/fd")) >= num_open:
            raise OSError(errno.EMFILE, "too many open files")
        return real(*arguments)

    monkeypatch.setattr(os, "open", full)
    files.write([append(made[0], key=key) for key in keys[3:]])
    files.write([append(made[1], key=key) for key in keys])
    monkeypatch.undo()
    assert all([entry.position.offset for entry in held(files, key).entries] == [1, 2] for key in keys)
    files.close()


@pytest.mark.parametrize("how", ["delete", "delete the folder", "replace"])
def test_files_that_somebody_deletes_or_replaces_are_written_to_no_more(tmp_path: Path, how: str) -> None:
    files = opened(tmp_path)
    made = entries(4)
    files.write([append(Opened("e" * 16, 0, is_sealed=True), *made[:2])])
    path = files.path(CALL)
    data = path.read_bytes()
    shutil.rmtree(path.parent) if how == "delete the folder" else path.unlink()
    if how == "replace":
        path.write_bytes(data)
    files.close_lost()
    files.write([append(*made[2:])])
    files.close_lost()
    files.write([append(Complete(files.generation, 4))])
    assert [entry.position.offset for entry in held(files).entries] == ([1, 2, 3, 4] if how == "replace" else [3, 4])
    assert outlined(files).is_certain is (how == "replace"), "what a client was shown may be missing"
    files.close()


def test_removing_and_replacing_keep_their_place_in_the_order(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = entries(3)
    position = Position("e", 0)
    files.write([append(Opened("e" * 16, 0), *made), Remove(CALL), append(Opened("f" * 16, 0), *entries(1, "f" * 16))])
    assert (outlined(files).epoch, len(held(files).entries)) == ("f" * 16, 1)
    files.write([append(made[1]), Replace(CALL, position, (Opened("g" * 16, 2), *entries(3, "g" * 16)[1:]), CIPHER)])
    assert (outlined(files).epoch, held(files).floor, len(held(files).entries)) == ("g" * 16, 2, 2)
    files.write([Remove(CALL)])
    assert files.read(CALL) is None
    files.close()


def test_the_oldest_expire_by_age_and_by_size(tmp_path: Path) -> None:
    files = opened(tmp_path)
    keys = [ChannelKey(TenantId("t"), f"call:{n}") for n in range(4)]
    for age, key in enumerate(keys):
        files.write([append(*entries(3, key=key), key=key)])
        os.utime(files.path(key), (1e9 + age, 1e9 + age))
    size = files.path(keys[0]).stat().st_size
    assert files.expired(60.0, 10**9) == keys
    assert files.expired(1e12, 10**9) == []
    assert files.expired(1e12, 2 * size) == keys[:2]
    files.close()


@pytest.mark.parametrize("name", ["call:c1", "..", ".", "a/b", "../../etc", "x" * 128, "ümläut", "a%2Fb", "call:+@._-"])
def test_any_name_is_a_safe_file_and_comes_back(tmp_path: Path, name: str) -> None:
    files = opened(tmp_path / "log")
    key = ChannelKey(TenantId(name), name)
    files.write([append(Opened("e" * 16, 0), *entries(1, key=key), key=key)])
    files.close()
    assert tmp_path / "log" in files.path(key).resolve().parents
    again = ChannelFiles(tmp_path / "log")
    assert again.open() == (key,)
    again.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    files = opened(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        ChannelFiles(tmp_path).open()
    files.close()
