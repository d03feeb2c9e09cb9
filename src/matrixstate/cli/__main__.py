"""`matrixstate COMMAND`. Arguments and help are made from the commands' signatures and docstrings."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from matrixstate.errors import ConfigError, MatrixStateError, MatrixStateWarning
from matrixstate.plugins import load_plugins

DESCRIPTION = """Recurrent sequence models with matrix-valued state: train, generate, evaluate.

Every command takes --debug, which shows the traceback of an error, and --plugin FILE.py (or the name of an installed
plug-in), which adds mixers, tasks, tokenizers or metrics, and can be given several times."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0; 1 for an error; 2 for arguments that do not parse; 128 + signal."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    arguments, plugins = _without(arguments, "--plugin")
    with warnings.catch_warnings():
        warnings.simplefilter("always", MatrixStateWarning)
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return _run(arguments, plugins, debug)


def _without(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The arguments without any `option VALUE` or `option=VALUE`, and those values."""
    rest, values, given = list[str](), list[str](), iter(arguments)
    for argument in given:
        if argument == option:
            values.append(next(given, ""))
        elif argument.startswith(f"{option}="):
            values.append(argument.removeprefix(f"{option}="))
        else:
            rest.append(argument)
    return rest, values


def _show_warning(
    show_other: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any
) -> None:
    if issubclass(category, MatrixStateWarning):
        print(f"matrixstate: warning: {message}", file=sys.stderr)
    else:
        show_other(message, category, *where)


def _run(arguments: list[str], plugins: list[str], debug: bool) -> int:
    try:
        load_plugins(plugins)
        import tyro  # imported here, which takes seconds, so that Ctrl-C meanwhile is handled below

        from matrixstate.cli.commands import COMMANDS

        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="matrixstate",
            description=DESCRIPTION,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except MatrixStateError as error:
        if debug:
            traceback.print_exc()
        lines = error.problems if isinstance(error, ConfigError) else (str(error),)
        for line in lines:
            print(f"matrixstate: error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # a `training.stopping.Stopped` has the signal's number
        print("matrixstate: interrupted", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    except BrokenPipeError:  # nobody reads the output any more, as in `... | head`
        # Python flushes the output once more at exit, which must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
