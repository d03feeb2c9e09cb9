"""`matrixstate COMMAND`: arguments and help come from the commands' signatures and docstrings."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import tyro

from matrixstate.cli.automaton import automaton
from matrixstate.cli.autopsy import autopsy
from matrixstate.cli.check import check
from matrixstate.cli.compare import compare
from matrixstate.cli.correct import correct
from matrixstate.cli.demo import demo
from matrixstate.cli.evaluate import evaluate
from matrixstate.cli.generate import generate
from matrixstate.cli.info import info
from matrixstate.cli.inspect import inspect
from matrixstate.cli.list import list_mixers
from matrixstate.cli.needle import needle
from matrixstate.cli.reproduce import reproduce
from matrixstate.cli.track import track_run
from matrixstate.cli.train import train
from matrixstate.errors import ConfigError, MatrixStateError, MatrixStateWarning

COMMANDS = {
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "needle": needle,
    "info": info,
    "list": list_mixers,
    "demo": demo,
    "compare": compare,
    "reproduce": reproduce,
    "check": check,
    "inspect": inspect,
    "track": track_run,
    "automaton": automaton,
    "correct": correct,
    "autopsy": autopsy,
}
INTERRUPTED = 130  # what a shell reports for SIGINT
DESCRIPTION = """Recurrent sequence models with matrix-valued state: train, generate, evaluate.

Give --debug with any command to see the traceback of an error."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error of use, 2 for arguments that do not parse."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.simplefilter("always", MatrixStateWarning)
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return _run(arguments, debug)


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, MatrixStateWarning):
        print(f"matrixstate: warning: {message}", file=sys.stderr)
    else:
        others(message, category, *where)


def _run(arguments: list[str], debug: bool) -> int:
    try:
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
    except KeyboardInterrupt:
        print("matrixstate: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
