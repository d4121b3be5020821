"""Every command's help: whole sentences in every listing, every option explained, examples as they are typed."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from server.cli import root


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


ALL = dict(commands(root))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_is_whole(path: tuple[str, ...]) -> None:
    command = ALL[path]
    text = command.get_help(click.Context(command, info_name="cueline " + " ".join(path), terminal_width=80))
    assert "\\b" not in text, "an escape that was not meant to be read"
    assert "..." not in text.partition("Commands:")[2], "a first sentence that does not fit its line"
    assert command.help, "no help"
    hidden = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not hidden, "options without a word"
