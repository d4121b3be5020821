"""A type and a path → the words that are allowed there."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import pytest

from inference.choices import choices, one_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct):
    size: Literal["small", "large"]
    colour: Colour | None = None
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Tree(msgspec.Struct, tag="tree"):
    leaves: list[Leaf]
    by_name: dict[str, Leaf]
    pair: tuple[Leaf, ...] = ()
    kind: Literal["oak", "elm"] = "oak"


class Bush(msgspec.Struct, tag="bush"):
    kind: Literal["box"] = "box"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("leaves[0].size", ("large", "small")),
        ("leaves[...].colour", ("blue", "red")),
        ("by_name[...].size", ("large", "small")),
        ("pair[3].size", ("large", "small")),
        ("kind", ("box", "elm", "oak")),
        ("leaves[0].count", ()),
        ("leaves", ()),
        ("nothing.of.the.kind", ()),
        ("", ()),
    ],
)
def test_words_allowed_at_a_path(path, allowed):
    assert choices(Tree | Bush, path) == allowed


def test_the_path_of_a_real_error_finds_its_words():
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({"type": "tree", "leaves": [{"size": "huge"}], "by_name": {}}, Tree | Bush)
    path = str(raised.value).partition("`$.")[2].rstrip("`")
    assert one_of(Tree | Bush, path) == " (one of: large, small)"


def test_nothing_is_said_where_there_is_nothing_to_choose_from():
    assert one_of(int, "") == one_of(None, "x.y") == ""
    assert one_of(Literal["a", "b"], "") == " (one of: a, b)"
