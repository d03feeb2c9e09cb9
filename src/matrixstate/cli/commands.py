"""The table of commands."""

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
