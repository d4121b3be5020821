"""From file and environment to one checked tree.

`CUELINE_PORT=9000` sets `port`, `CUELINE_AUTH__SHARED_KEY=…` sets `auth.shared_key`: two underscores go one level
down. The environment wins over the file. Variables that belong to the commands (`CUELINE_TOKEN`, `CUELINE_URL`)
are not settings.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from inference.choices import one_of
from server.config.check import check
from server.config.settings import Settings
from server.wire.errors import ConfigError

PREFIX = "CUELINE_"
_NOT_SETTINGS = frozenset({"CUELINE_TOKEN", "CUELINE_URL", "CUELINE_CONFIG"})
_PATH = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]+)`")


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read, merge and check the configuration.

    Args:
        file: TOML file; None for defaults only.
        environment: Usually `os.environ`.
        overrides: Values of command-line options by dotted path; None values are ignored.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type or value; names its path.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text())
        except FileNotFoundError:
            raise ConfigError("no such file", field=str(file)) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"cannot be read: {error}", field=str(file)) from None
    for variable, text in sorted((environment or {}).items()):
        if variable.startswith(PREFIX) and variable not in _NOT_SETTINGS:
            _put(tree, variable.removeprefix(PREFIX).lower().split("__"), text, origin=variable)
    for path, value in (overrides or {}).items():
        if value is not None:
            _put(tree, path.split("."), value, origin=path)
    try:
        # Not strict: variables are text, and "8080" is a port all the same.
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _config_error(error) from None
    return check(settings)


def _put(tree: dict[str, Any], path: list[str], value: Any, *, origin: str) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"`{key}` is a value, not a section", field=origin)
    tree[path[-1]] = value.split(",") if path[-1] == "allowed_origins" and isinstance(value, str) else value


def _config_error(error: msgspec.ValidationError) -> ConfigError:
    matched = _PATH.match(str(error))
    problem = matched["problem"] if matched else str(error)
    path = (matched["path"] if matched else "") or ""
    unknown = _UNKNOWN.search(problem)
    if unknown:
        path = f"{path}.{unknown['name']}" if path else unknown["name"]
        problem = "there is no such setting"
    if problem.startswith("Invalid enum value"):
        problem += one_of(Settings, path)
    return ConfigError(problem[:1].lower() + problem[1:], field=path or None)
