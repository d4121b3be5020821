from inference.memo import Memo

LANE = ("utterance", 1)


def test_what_was_used_least_recently_goes_first() -> None:
    memo: Memo[str] = Memo(2)
    memo.keep(LANE, b"a", "A")
    memo.keep(LANE, b"b", "B")
    assert memo.recall(LANE, b"a") == "A"
    memo.keep(LANE, b"c", "C")
    assert memo.recall(LANE, b"b") is None
    assert memo.recall(LANE, b"a") == "A"
    assert memo.recall(LANE, b"c") == "C"


def test_versions_do_not_share_and_are_forgotten_together() -> None:
    memo: Memo[str] = Memo(10)
    memo.keep(LANE, b"a", "old")
    memo.keep(("utterance", 2), b"a", "new")
    memo.forget(LANE)
    assert memo.recall(LANE, b"a") is None
    assert memo.recall(("utterance", 2), b"a") == "new"


def test_a_bound_of_zero_keeps_nothing() -> None:
    memo: Memo[str] = Memo(0)
    memo.keep(LANE, b"a", "A")
    assert memo.recall(LANE, b"a") is None


def test_the_first_revision_with_the_same_words_is_the_one_to_recall() -> None:
    memo: Memo[str] = Memo(10)
    assert memo.same_words("u", b"words", b"words.") is None
    assert memo.same_words("u", b"words", b"words,") == b"words."
    assert memo.same_words("u", b"more words", b"more words") is None
    assert memo.same_words("u", b"more words", b"more words!") == b"more words"
    assert memo.same_words("v", b"words", b"words?") is None


def test_utterances_are_bounded() -> None:
    memo: Memo[str] = Memo(2)
    for name in "abc":
        memo.same_words(name, b"w", name.encode())
    assert memo.same_words("c", b"w", b"x") == b"c"
    assert memo.same_words("a", b"w", b"x") is None
