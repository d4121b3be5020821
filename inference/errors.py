"""The exception tree of the engine. `server` maps it to its own by `code`; messages are public and name places,
never what a customer said.

    InferenceError
    ├── GraphError       a graph that cannot be compiled; refuses the start
    ├── ModelError       a model folder that cannot be served; the version before it keeps serving
    ├── OverloadedError  no capacity at the engine's door; retryable
    ├── ModelFailed      the model raised on this row, alone or in company
    ├── BackendUnavailable  a remote backend is gone or hangs; retryable
    └── DeadlineExceeded    the last deadline of a batch passed while it ran
"""

from __future__ import annotations

from typing import ClassVar


class InferenceError(Exception):
    """Base of all errors of the engine.

    Args:
        message: Public text, complete without the code.
        field: Path of the wrong value, such as `nodes.intent.when`; None where there is none.
    """

    code: ClassVar[str] = "inference"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class GraphError(InferenceError):
    """A graph says something that cannot be compiled.

    Args:
        problem: What is wrong, in a few words.
        graph: Name or file of the graph.
        node: Faulty node; empty where the graph as a whole is at fault.
        input: Faulty input of the node, or `when`; empty where the node as a whole is at fault.
        expected: What would have been right.
        given: What was found.
        field: Path of the value in the file; derived from `node` and `input` where not given.
    """

    code = "bad_graph"

    def __init__(
        self,
        problem: str,
        *,
        graph: str,
        node: str = "",
        input: str = "",  # the word the graph file uses
        expected: str = "",
        given: str = "",
        field: str | None = None,
    ) -> None:
        if field is None and node:
            field = f"nodes.{node}.{'when' if input == 'when' else 'inputs'}" if input else f"nodes.{node}"
        where = ": ".join(part for part in (graph, field) if part)
        about = f" (input {input})" if input and input != "when" else ""
        sides = (("expected", expected), ("given", given))
        contrast = ", ".join(f"{side} {value}" for side, value in sides if value)
        super().__init__(f"{where}{about}: {problem}{'; ' if contrast else ''}{contrast}", field=field)
        self.graph = graph
        self.node = node
        self.input = input
        self.expected = expected
        self.given = given


class ModelError(InferenceError):
    """A folder of the model repository does not hold what it should.

    Args:
        problem: What is wrong, in a few words.
        path: Folder or file, from the repository's own name on (`model_repo/utterance/config.pbtxt`).
        key: Key or line within the file.
    """

    code = "bad_model"

    def __init__(self, problem: str, *, path: str, key: str = "") -> None:
        super().__init__(f"{path}: {f'{key}: ' if key else ''}{problem}", field=key or None)
        self.problem = problem
        self.path = path
        self.key = key


class OverloadedError(InferenceError):
    """The engine refuses a row at its door: it could not answer in time."""

    code = "overloaded"
    retryable = True


class ModelFailed(InferenceError):
    """The model raised on this row."""

    code = "model_failed"


class BackendUnavailable(InferenceError):
    """What runs a model elsewhere does not answer, or not in time; nothing is wrong with the row."""

    code = "backend_unavailable"
    retryable = True


class DeadlineExceeded(InferenceError):
    """The last deadline of a batch passed while it ran; nobody waits for it any more."""

    code = "deadline_exceeded"
