from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from server.cli.asyncapi import CLOSE_CODES, document, render
from server.wire import feed, ingest
from server.wire.feed import CloseCode
from server.wire.publication import KINDS

COMMITTED = Path(__file__).parents[3] / "docs" / "asyncapi.yaml"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def test_the_committed_document_is_the_generated_one() -> None:
    assert COMMITTED.read_text() == render(), "run: python -m server.cli.asyncapi > docs/asyncapi.yaml"


def test_it_is_yaml_and_every_reference_leads_somewhere() -> None:
    loaded = yaml.safe_load(render())
    assert loaded["asyncapi"] == "3.0.0"
    for reference in references(loaded):
        target: Any = loaded
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target


def test_every_message_of_the_wire_is_in_it() -> None:
    messages = document()["components"]["messages"]
    structs = [
        value
        for module in (feed, ingest)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    ]
    over_http = {feed.TicketRequest, feed.TicketResponse}
    assert {struct.__name__ for struct in structs if struct not in over_http} <= set(messages)
    assert {f"Publication.{kind}" for kind in KINDS} <= set(messages)


def test_every_close_code_is_explained() -> None:
    assert set(CLOSE_CODES) == set(CloseCode)
