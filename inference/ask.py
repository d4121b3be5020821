"""Requests as coroutines, for those who want the outputs of each together and not one by one as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from inference.errors import InferenceError
from inference.request import Outcome, Output, Request

Outputs = dict[str, Output]
"""Every wanted output of a request, by name."""


class Taker(Protocol):
    """Takes requests."""

    def submit(self, request: Request) -> None:
        """See `Engine.submit`."""

    def take(self, request: Request) -> Sequence[Output] | None:
        """See `Engine.take`."""


class _Answer:
    """Outputs of a request as they come, and its end."""

    __slots__ = ("done", "outputs")

    def __init__(self, request: Request) -> None:
        self.outputs: Outputs = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request.on_outputs, request.on_done = self.hear, self.end

    def hear(self, ready: Sequence[Output]) -> None:
        for output in ready:
            self.outputs[output.name] = output

    def end(self, outcome: Outcome, error: BaseException | None) -> None:
        if self.done.done():
            return  # the waiter was cancelled
        if outcome is Outcome.DONE:
            self.done.set_result(None)
        else:
            self.done.set_exception(error or InferenceError(f"the request ended as {outcome.name.lower()}"))


async def ask(engine: Taker, request: Request) -> Outputs:
    """Submit a request and wait for its end.

    Args:
        engine: Started.
        request: Its callbacks are set here.

    Raises:
        InferenceError: If it was refused, failed, or ended without its outputs.
    """
    answer = _Answer(request)
    engine.submit(request)
    await answer.done
    return answer.outputs


async def ask_all(engine: Taker, requests: Iterable[Request]) -> list[Outputs]:
    """Submit requests together and wait for the end of all. Those that are remembered cost no turn of the loop.

    Args:
        engine: Started.
        requests: Their callbacks are set here.

    Raises:
        InferenceError: As `ask`, of the first that has none; the others go on.
    """
    answers, waiting = list[Outputs](), list[asyncio.Future[None]]()
    for request in requests:
        answer = _Answer(request)
        answers.append(answer.outputs)
        try:
            remembered = engine.take(request)
        except InferenceError as error:
            answer.done.set_exception(error)
            remembered = None
        if remembered is None:
            waiting.append(answer.done)
        else:
            answer.hear(remembered)
    if waiting:
        await asyncio.gather(*waiting)
    return answers
