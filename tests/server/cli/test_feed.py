import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from click import BadParameter

from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.cli.feed import _parse_position
from server.log.contract import Position
from tests.server.feed.harness import CALL, MemoryLog, action, call, feed_server, transcript


async def cueline(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from server.cli import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A job that a shell started in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield line.decode().rstrip("\n")


def a_call(log: MemoryLog) -> None:
    for payload in [call("started"), transcript(1, is_final=False), transcript(1), action(1)]:
        log.append_now(CALL, payload)


async def test_json_lines_are_the_publications_until_the_call_ends() -> None:
    log = MemoryLog()
    a_call(log)
    async with feed_server(log=log) as server:
        process = await cueline("feed", "--conversation", "1", "--json", "--url", server.url)
        received = []
        async for line in lines(process):
            received.append(json.loads(line))
            if len(received) == 3:
                log.append_now(CALL, transcript(2))
                log.append_now(CALL, call("ended"))
        assert [publication["off"] for publication in received] == [1, 3, 4, 5, 6]
        assert received[3] == json.loads(log.entries[CALL][4].body)
        assert await process.wait() == 0


@pytest.mark.slow
async def test_from_a_position() -> None:
    log = MemoryLog()
    a_call(log)
    log.append_now(CALL, call("ended"))
    async with feed_server(log=log) as server:
        arguments = ["feed", "--conversation", "1", "--json", "--url", server.url]
        out, _ = await (await cueline(*arguments, "--from", "e1:3")).communicate()
        assert [json.loads(line)["off"] for line in out.splitlines()] == [4, 5]
        out, _ = await (await cueline(*arguments, "--from", "old:3")).communicate()
        told, *snapshot = [json.loads(line) for line in out.splitlines()]
        assert (told["type"], told["recovered"], told["ep"]) == ("subscribed", False, "e1")
        assert [publication["off"] for publication in snapshot] == [3, 4, 5]


@pytest.mark.slow
async def test_for_people() -> None:
    log = MemoryLog()
    a_call(log)
    log.append_now(CALL, call("ended"))
    async with feed_server(log=log) as server:
        out, _ = await (await cueline("feed", "--conversation", "1", "--url", server.url)).communicate()
        assert "00:01.0   customer  hello" in out.decode()
        assert "▸ hint: Do" in out.decode()
        assert "call ended" in out.decode()


async def test_ctrl_c_ends_it_without_a_trace() -> None:
    log = MemoryLog()
    a_call(log)
    async with feed_server(log=log) as server:
        process = await cueline("feed", "--conversation", "1", "--url", server.url)
        async for line in lines(process):
            if "hint" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert (process.returncode, b"Traceback" in errors) == (130, False)


async def test_errors_are_one_line() -> None:
    key = "k" * 32
    async with feed_server(authenticator=SharedKeyAuthenticator(key)) as server:
        arguments = ["feed", "--conversation", "1", "--url", server.url]
        process = await cueline(*arguments)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (2, b"cueline: a bearer token is required\n")
        token = issue_token(key, tenant_id="t", agent_id="a1", roles=["agent"], ttl_s=60, wall_s=1.8e9)
        process = await cueline(*arguments, "--token", token, "--tenant", "u")
        _, errors = await process.communicate()
        assert (process.returncode, len(errors.splitlines())) == (2, 1)
        assert token.encode() not in errors
    process = await cueline(*arguments)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.startswith(b"cueline: no ticket from http://127.0.0.1:")


def test_positions() -> None:
    assert _parse_position(None) is None
    assert _parse_position("e:1:7") == Position("e:1", 7)
    for bad in ["", "7", ":7", "e:", "e:x", "e:-1"]:
        with pytest.raises(BadParameter):
            _parse_position(bad)
