"""What a model never reads."""

import pytest

from server.knowledge.masking import Masks


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ("my card is 4532 1188 0044 9901 okay", "my card is <NUMBER_1> okay"),
        ("it's four five three two one double oh seven", "it's <NUMBER_1>"),
        ("write to dana.w@example.com please", "write to <EMAIL_1> please"),
        ("dana at example dot com", "<EMAIL_1>"),
        ("hi my name is Dana Whitfield", "hi my name is <NAME_1>"),
        ("it costs 79 dollars for two of us", "it costs 79 dollars for two of us"),
    ],
)
def test_personal_data_becomes_tokens_and_comes_back(said, hidden):
    masks = Masks()
    assert masks.hide(said) == hidden
    assert masks.reveal(hidden) == said


def test_the_same_words_have_the_same_token_and_foreign_tokens_stay():
    masks = Masks()
    assert masks.hide("order 99887 and 99887 and 11223") == "order <NUMBER_1> and <NUMBER_1> and <NUMBER_2>"
    assert masks.reveal("<NUMBER_7>") == "<NUMBER_7>"
    assert not Masks()
