from __future__ import annotations

import random

import click
import pytest
from click.testing import CliRunner

from server.cli.speech_server import _Draw, _faults, speech_server
from server.speech_server.faults import Faults
from server.wire.errors import ConfigError


def test_other_machines_need_a_key_and_a_certificate() -> None:
    refused = CliRunner().invoke(speech_server, ["--host", "0.0.0.0"])
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.field == "host"


def test_a_wrong_fault_is_named() -> None:
    refused = CliRunner().invoke(speech_server, ["--fault", "explode=1"])
    assert refused.exit_code == 2
    assert "explode is none of refuse, drop" in refused.output
    with pytest.raises(click.BadParameter):
        _faults(("drop=soon",), None)


def test_connections_draw_their_faults_in_turn_or_at_random() -> None:
    draw = _faults(("drop=1", "stall=2"), None)
    assert [draw() for _ in range(3)] == [Faults(drop=1), Faults(stall=2), Faults(drop=1)]
    assert _Draw([], None)() == Faults()
    choices = [Faults(drop=1), Faults(stall=2)]
    one, other = (_Draw(choices, random.Random(3)) for _ in range(2))
    assert [one() for _ in range(20)] == [other() for _ in range(20)]
