"""A policy file is read: YAML to document, with the path of the wrong value in every error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from inference.choices import one_of
from server.policy.document import ExamplesDocument, OutputDocument, PolicyDocument, Version
from server.policy.rules import Policy
from server.policy.validation import Graphs, compile_policy
from server.wire.errors import ConfigError

_MAPPINGS = {"outputs": OutputDocument, "pins": Version}
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")


def load_policy(path: Path, graphs: Graphs | None = None) -> Policy:
    """Read, check and compile one policy file.

    Args:
        path: The YAML file.
        graphs: What the graphs offer; None leaves output names and labels unchecked against the graph.

    Raises:
        ConfigError: Anything is wrong; `field` is such as `car_service.yaml: moments[2].any[0].semantic`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot be read: {type(error).__name__}", field=path.name) from error
    return parse_policy(text, source=path.name, graphs=graphs)


def parse_policy(text: str, *, source: str, graphs: Graphs | None = None) -> Policy:
    """Check and compile the text of a policy; `source` names it in errors. Pure; raises as `load_policy`."""
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f": line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(error.problem or "not valid YAML", field=f"{source}{line}") from error
    except yaml.YAMLError as error:
        raise ConfigError("not valid YAML", field=source) from error
    if not isinstance(raw, dict):
        raise ConfigError("a policy is a mapping", field=source)
    try:
        document = msgspec.convert(raw, PolicyDocument)
    except msgspec.ValidationError as error:
        problem, path = _explain(error)
        for section, kind in _MAPPINGS.items():
            if path.startswith(f"{section}[...]"):
                path = _wrong_key(section, raw[section], kind) + path.removeprefix(f"{section}[...]")
        output, is_example, rest = path.partition(".examples[...]")
        if is_example:
            entries = raw["outputs"][output.removeprefix("outputs.")]["examples"]
            path = _wrong_key(f"{output}.examples", entries, ExamplesDocument) + rest
        raise ConfigError(problem, field=f"{source}: {path}" if path else source) from None
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return compile_policy(document, source=source, digest=digest, graphs=graphs)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `on` and `off` are words (as in YAML 1.2) and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|false)$"), list("tf"))


def _explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split a type error into what is wrong and where."""
    text = str(error)
    where = _PATH.search(text)
    path = where["path"] if where else ""
    problem = text[: where.start()] if where else text
    for pattern, said in (
        (r"Object contains unknown field `([^`]+)`", "no such key"),
        (r"Object missing required field `([^`]+)`", "is missing"),
    ):
        found = re.fullmatch(pattern, problem)
        if found:
            return said, f"{path}.{found[1]}" if path else found[1]
    if problem.startswith("Invalid enum value"):
        problem += one_of(PolicyDocument, path)
    return problem[:1].lower() + problem[1:], path


def _wrong_key(section: str, entries: Mapping[str, Any], kind: Any) -> str:
    """Name the entry that the type check only called `[...]`."""
    for name, value in entries.items():
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return f"{section}.{name}"
    return section
