"""One request as a coroutine, for those who want its outputs together and not each as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from inference.errors import InferenceError
from inference.request import Outcome, Output, Request


class Taker(Protocol):
    """Takes requests."""

    def submit(self, request: Request) -> None:
        """See `Engine.submit`."""


async def ask(engine: Taker, request: Request) -> dict[str, Output]:
    """Submit a request and wait for its end.

    Args:
        engine: Started.
        request: Its callbacks are set here.

    Returns:
        Every wanted output by name.

    Raises:
        InferenceError: If it was refused, failed, or ended without its outputs.
    """
    outputs: dict[str, Output] = {}
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_outputs(ready: Sequence[Output]) -> None:
        outputs.update((output.name, output) for output in ready)

    def on_done(outcome: Outcome, error: BaseException | None) -> None:
        if done.done():
            return  # the waiter was cancelled
        if outcome is Outcome.DONE:
            done.set_result(None)
        else:
            done.set_exception(error or InferenceError(f"the request ended as {outcome.name.lower()}"))

    engine.submit(replace(request, on_outputs=on_outputs, on_done=on_done))
    await done
    return outputs
