from inference.memo import Memo

LANE = ("utterance", 1)


def test_what_was_used_least_recently_goes_first() -> None:
    memo: Memo[str] = Memo(2)
    memo.keep(LANE, [(b"a", "A")])
    memo.keep(LANE, [(b"b", "B")])
    assert memo.recall(LANE, b"a") == "A"
    memo.keep(LANE, [(b"c", "C")])
    assert memo.recall(LANE, b"b") is None
    assert memo.recall(LANE, b"a") == "A"
    assert memo.recall(LANE, b"c") == "C"


def test_versions_do_not_share_and_are_forgotten_together() -> None:
    memo: Memo[str] = Memo(10)
    memo.keep(LANE, [(b"a", "old")])
    memo.keep(("utterance", 2), [(b"a", "new")])
    memo.forget(LANE)
    assert memo.recall(LANE, b"a") is None
    assert memo.recall(("utterance", 2), b"a") == "new"


def test_a_bound_of_zero_keeps_nothing() -> None:
    memo: Memo[str] = Memo(0)
    memo.keep(LANE, [(b"a", "A")])
    assert memo.recall(LANE, b"a") is None


def test_a_revision_with_the_same_words_is_recalled_by_the_ids_that_were_computed() -> None:
    memo: Memo[str] = Memo(10)
    assert memo.said("u", b"words") is None
    memo.say("u", b"words", b"words.")
    assert memo.said("u", b"words") == b"words."
    assert memo.said("u", b"more words") is None
    assert memo.said("v", b"words") is None
    memo.say("u", b"more words", b"more words!")
    assert memo.said("u", b"words") is None


def test_nothing_is_left_of_words_that_are_to_be_forgotten() -> None:
    memo: Memo[str] = Memo(10)
    memo.keep(LANE, [(b"a", "A"), (b"b", "B")])
    memo.say("u", b"words", b"words.")
    assert memo.clear() == 2
    assert memo.recall(LANE, b"a") is None
    assert memo.said("u", b"words") is None


def test_the_utterance_that_grew_last_is_kept_longest() -> None:
    memo: Memo[str] = Memo(2)
    for name in "abac":
        memo.say(name, b"w", name.encode())
    assert memo.said("a", b"w") == b"a"
    assert memo.said("b", b"w") is None


def test_utterances_are_bounded() -> None:
    memo: Memo[str] = Memo(2)
    for name in "abc":
        memo.say(name, b"w", name.encode())
    assert memo.said("a", b"w") is None
    assert memo.said("c", b"w") == b"c"
