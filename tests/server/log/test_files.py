from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.log.channel import Channel
from server.log.contract import ChannelKey, Entry, Position
from server.log.files import Append, ChannelFiles, Job, Opened, Remove, Replace, Sealed, in_epoch
from server.wire.errors import ConfigError
from server.wire.ids import TenantId
from tests.examples import examples
from tests.server.log.events import CALL, content, decoded, transcript


def entries(number: int, epoch: str = "e" * 16, key: ChannelKey = CALL) -> tuple[Entry, ...]:
    channel = Channel(key, epoch)
    return tuple(channel.append(transcript(f"u{n}", n + 1, f"words {n}"), 0.0, 1.0) for n in range(number))


def append(*items: Entry | Opened | Sealed, key: ChannelKey = CALL) -> Append:
    return Append(key, Position("e", 0), items)


def opened(folder: Path) -> ChannelFiles:
    files = ChannelFiles(folder)
    files.open()
    return files


def whole(files: ChannelFiles, number: int = 5) -> tuple[Entry, ...]:
    made = entries(number)
    files.write([append(Opened("e" * 16, 0), *made, Sealed(files.generation, number))])
    return made


def test_what_was_written_is_read_and_certain(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = whole(files)
    contents = files.read(CALL)
    assert contents is not None
    assert contents.is_certain
    assert [entry.body for entry in contents.entries] == [entry.body for entry in made]
    assert contents.entries[0].appended_s == pytest.approx(made[0].appended_s, abs=0.1)
    assert files.read(ChannelKey(TenantId("x"), "y")) is None
    files.close()


@pytest.mark.parametrize("is_clean", [True, False])
def test_only_a_clean_stop_leaves_certainty(tmp_path: Path, is_clean: bool) -> None:
    files = opened(tmp_path)
    whole(files)
    if is_clean:
        files.mark_clean()
    files.close()
    files = opened(tmp_path)
    contents = files.read(CALL)
    assert contents is not None
    assert contents.is_certain is is_clean
    files.close()
    again = opened(tmp_path)  # this run did not end well: nobody knows what it showed
    contents = again.read(CALL)
    assert contents is not None
    assert not contents.is_certain
    again.close()


def test_a_lost_generation_makes_everything_uncertain(tmp_path: Path) -> None:
    files = opened(tmp_path)
    whole(files)
    files.mark_clean()
    files.close()
    (tmp_path / "generation").write_bytes(b"\x00\x01")
    files = opened(tmp_path)
    contents = files.read(CALL)
    assert contents is not None
    assert not contents.is_certain
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
        contents = files.read(CALL)
        assert contents is not None
        said = content(in_epoch(entry, "x") for entry in made)
        assert [item for item in content(contents.entries) if item not in said] == []
        if bytes(spoiled) != original:
            assert not contents.is_certain
        complete = [entry.position.offset for entry in contents.entries if entry.position.offset > contents.floor]
        assert complete == list(range(contents.floor + 1, contents.floor + 1 + len(complete)))
        files.close()


def test_a_new_epoch_holds_for_what_stood_before_it(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = whole(files)
    later = entries(6, epoch="f" * 16)[-1]
    files.write([append(Opened("f" * 16, 0), later)])
    contents = files.read(CALL)
    assert contents is not None
    assert {decoded(entry)["ep"] for entry in contents.entries} == {"f" * 16}
    assert {entry.position.epoch for entry in contents.entries} == {"f" * 16}
    assert content(contents.entries) == content((*made, later))
    files.close()


def test_words_that_look_like_an_envelope_stay_as_they_are(tmp_path: Path) -> None:
    channel = Channel(CALL, "e" * 16)
    text = f'"ep":"{"e" * 16}"'
    entry = channel.append(transcript("u1", 1, text), 0.0, 1.0)
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
        append(made[2], Sealed(files.generation, 3), key=other),
        append(*entries(1), key=ChannelKey(TenantId("new"), "call:c3")),
    ]
    real = getattr(os, call)
    calls = 0

    def second_fails(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise OSError(errno.ENOSPC, "no space")
        return real(*args)

    if call == "fsync":
        with monkeypatch.context() as patched:
            patched.setattr(os, call, second_fails)
            with pytest.raises(OSError, match="no space"):
                files.write(batch)
    else:
        path = files.path(other)
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # opening it for writing fails, after the first channel was written
        with pytest.raises(OSError, match="directory"):
            files.write(batch)
        path.rmdir()
        path.with_suffix(".away").rename(path)
    files.write(batch)
    for key, number in ((CALL, 4), (other, 3)):
        contents = files.read(key)
        assert contents is not None
        assert [entry.position.offset for entry in contents.entries] == list(range(1, number + 1))
    files.close()


def test_removing_and_replacing_keep_their_place_in_the_order(tmp_path: Path) -> None:
    files = opened(tmp_path)
    made = entries(3)
    position = Position("e", 0)
    files.write([append(Opened("e" * 16, 0), *made), Remove(CALL), append(Opened("f" * 16, 0), *entries(1, "f" * 16))])
    contents = files.read(CALL)
    assert contents is not None
    assert (contents.epoch, len(contents.entries)) == ("f" * 16, 1)
    files.write([append(made[1]), Replace(CALL, position, (Opened("g" * 16, 2), *entries(3, "g" * 16)[1:]))])
    contents = files.read(CALL)
    assert contents is not None
    assert (contents.epoch, contents.floor, len(contents.entries)) == ("g" * 16, 2, 2)
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
