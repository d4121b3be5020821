"""The examples of docs/policies.md, and that none of the keys is left out."""

from __future__ import annotations

import re

import msgspec
import pytest

from server.policy import document
from server.policy.loading import parse_policy
from tests.server.policy.encoder import ROOT

PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_load(text: str) -> None:
    policy = parse_policy(text, source="example.yaml")
    assert policy.tenant == "corner_shop"
    assert policy.warnings == ()


def test_every_key_is_shown() -> None:
    structs = [kind for kind in vars(document).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    keys = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    examples = "\n".join(EXAMPLES)
    assert len(keys) > 40
    assert {key for key in keys if not re.search(rf"\b{key}:", examples)} == set()
