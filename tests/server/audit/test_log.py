from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from server.audit.chain import Link, verify
from server.audit.log import FILE, AuditLog
from server.auth.identity import Identity
from server.cli.audit import audit
from server.wire.errors import ConfigError, Unavailable
from server.wire.ids import AgentId, TenantId

ME = Identity(TenantId("t"), AgentId("a1"), frozenset({"agent"}))
ADMIN = Identity(TenantId("u"), None, frozenset({"admin"}))


def lines(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines()


async def opened(folder: Path) -> AuditLog:
    log = AuditLog(folder)
    await log.start()
    return log


async def test_what_was_noted_is_on_the_disk_when_it_is_done(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.note(ME, "read", "call:c1")
    (line,) = lines(tmp_path)
    found = msgspec.json.decode(msgspec.json.decode(line, type=Link).entry or b"")
    assert {name: found[name] for name in ("tenant_id", "who", "roles", "action", "what", "outcome")} == {
        "tenant_id": "t", "who": "agent:a1", "roles": ["agent"], "action": "read", "what": "call:c1",
        "outcome": "allowed",
    }  # fmt: skip
    await log.stop()


async def test_a_chain_goes_on_over_restarts_and_many_at_once(tmp_path: Path) -> None:
    for _ in range(3):
        log = await opened(tmp_path)
        await asyncio.gather(*(log.note(ME, "read", f"call:{n}") for n in range(50)))
        head = log.head
        await log.stop()
    assert verify(lines(tmp_path)) == head
    assert head.number == 150


async def test_a_line_that_a_crash_cut_is_cut_off(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.note(ME, "read", "call:1")
    await log.stop()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"number":2,"ha')
    log = await opened(tmp_path)
    await log.note(ME, "read", "call:2")
    await log.stop()
    assert verify(lines(tmp_path)).number == 2


async def test_a_file_that_was_changed_refuses_the_start_and_is_named(tmp_path: Path) -> None:
    log = await opened(tmp_path)
    await log.note(ME, "read", "call:1")
    await log.stop()
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b"call:1", b"call:2"))
    with pytest.raises(ConfigError, match="evidence") as caught:
        await AuditLog(tmp_path).start()
    assert caught.value.field == str(path)


async def test_a_disk_that_fails_refuses_who_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("server.audit.log.os.fsync", _fails)
        with pytest.raises(Unavailable):
            await log.note(ME, "read", "call:1")
    await log.stop()
    assert verify(lines(tmp_path)).number == 1


def _fails(_: int) -> None:
    raise OSError(28, "No space left on device")


async def test_the_commands_verify_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUELINE_DATA_DIR", str(tmp_path))
    log = await opened(tmp_path / "audit")
    await log.note(ME, "read", "call:c1")
    await log.note(ADMIN, "list", "conversations")
    head = log.head
    await log.stop()
    run = CliRunner().invoke
    verified = run(audit, ["verify", "--head", head.hash])
    assert verified.exit_code == 0
    assert f"2 entries hold, head {head.hash}" in verified.output
    exported = run(audit, ["export", "--tenant", "t"])
    assert "call:c1" in exported.output
    assert "conversations" not in exported.output
    (tmp_path / "export.jsonl").write_text(exported.output)
    assert run(audit, ["verify", "--export", str(tmp_path / "export.jsonl")]).exit_code == 0
    assert run(audit, ["export", "--since", "2999-01-01"]).output.count("entry") == 0
    (tmp_path / "export.jsonl").write_text(exported.output.replace("call:c1", "call:c2"))
    broken = run(audit, ["verify", "--export", str(tmp_path / "export.jsonl")])
    assert broken.exit_code == 1
    assert "BROKEN, line 1" in broken.output
    assert run(audit, ["verify", "--head", "0" * 63 + "1"]).exit_code == 1
