from __future__ import annotations

from typing import Any

import pytest

from inference.triton_schema import DATA_TYPE_NAMES, ConfigMessage


def fields(message: Any, seen: dict[str, Any], name: str = "ModelConfig") -> dict[str, Any]:
    """Return every field below a message, with what the wire and the text form depend on."""
    if name not in seen:
        seen[name] = {}
        for field in message.fields:
            members = {value.name: value.number for value in field.enum_type.values} if field.enum_type else {}
            seen[name][field.name] = (field.number, field.type, field.is_repeated, members)
            if field.message_type:
                fields(field.message_type, seen, f"{name}.{field.name}")
    return seen


def test_the_table_is_the_public_schema() -> None:
    """Of the Triton client's release, where that is installed."""
    public = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs the extra triton")
    assert fields(ConfigMessage.DESCRIPTOR, {}) == fields(public.ModelConfig.DESCRIPTOR, {})


def test_the_table_has_every_field_that_we_write() -> None:
    known = fields(ConfigMessage.DESCRIPTOR, {})
    assert known["ModelConfig"]["max_batch_size"][0] == 4
    assert known["ModelConfig.input"]["dims"][:1] == (4,)
    assert known["ModelConfig.output"]["label_filename"][:1] == (4,)
    assert known["ModelConfig.parameters"]["value"][:1] == (2,)
    assert DATA_TYPE_NAMES[11] == "FP32"
