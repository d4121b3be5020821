"""The `cueline` command. Each subcommand lives in its own module and is imported when it is called, so that
`cueline --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys

import click

from server.wire.errors import CuelineError

_COMMANDS = {
    "serve": ("server.cli.serve", "serve", "Start the server."),
    "replay": ("server.cli.replay", "replay", "Stream a two-party recording in and report what came out."),
    "feed": ("server.cli.feed", "feed", "Print a call's feed as an agent sees it."),
    "annotate": ("server.cli.annotate", "annotate", "Run the guidance graph over lines of JSON."),
    "graph": ("server.cli.graph", "graph", "Check and explain graphs."),
    "kb": ("server.cli.kb", "kb", "Fill, search and judge knowledge bases."),
    "models": ("server.cli.models", "models", "Build, train, evaluate, watch and switch models."),
    "speech": ("server.cli.speech", "speech", "Judge recognisers on human prompts."),
    "speech-server": ("server.cli.speech_server", "speech_server", "Recognise for clients of Deepgram's protocol."),
    "token": ("server.cli.token", "token", "Print a token for development."),
    "connect-kvs": ("server.cli.connect_kvs", "connect_kvs", "Read Amazon Connect's calls from Kinesis Video Streams."),
    "connect-simulator": (
        "server.simulators.connect.command",
        "connect_simulator",
        "Play Amazon Connect with a recorded call.",
    ),
    "keys": ("server.cli.keys", "keys", "Look after the keys that seal what customers said."),
    "audit": ("server.cli.audit", "audit", "Verify and export the log of who read what."),
    "demo": ("server.cli.demo", "demo", "Render the demo call."),
}
"""Name → module, attribute, help line. The help lines are repeated here so that `--help` imports nothing."""


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the way of the data."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cueline", prog_name="cueline")
def root() -> None:
    """Cueline listens to live contact-center calls and shows the agent what helps."""


def main() -> None:
    """Entry point of the console command: known errors in one line, without a trace."""
    try:
        root(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CuelineError as error:
        click.echo(f"cueline: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
