"""`matrixstate correct`."""

import math
from pathlib import Path

from tyro.conf import Positional

from matrixstate.cli.output import print_tracking
from matrixstate.cli.places import beside
from matrixstate.cli.train import set_threads
from matrixstate.errors import require
from matrixstate.evaluation.tracking import track
from matrixstate.training.task_config import measured_lengths
from matrixstate.training.tasks import correct_run

MOST_CODES = 4096  # the time to find them grows with their square


def correct(
    run: Positional[Path],
    *,
    every: int = 8,
    codes: int | None = None,
    sharpness: float = 16.0,
    out: Path | None = None,
    length: int = 8192,
    sequences: int = 64,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Give a trained MRU error correction, without training it again, and measure how far it tracks then.

    Every few steps its states snap to codes, which are made of the states that it is seen in.

    Args:
        run: The directory of a run on a task, of a model with MRUs that only multiply.
        every: Steps from one correction to the next.
        codes: How many clusters of states, at most 4096; two or more for every state that is to be told apart.
            Default: the mean state of every answer, for tasks whose answer says the whole state, as a group's
            word problem does.
        sharpness: How surely the nearest code is taken.
        out: Directory of the corrected run. Default: RUN-corrected.
        length: Steps of the longest sequences tested.
        sequences: How many.
        threads: How many threads to use. Default: PyTorch's choice.
        json: Print one JSON object.
    """
    set_threads(threads)
    require(
        (every > 0, f"--every: expected at least 1, got {every}"),
        (codes is None or 0 < codes <= MOST_CODES, f"--codes: expected 1 to {MOST_CODES}, got {codes}"),
        (0 < sharpness < math.inf, f"--sharpness: expected a positive number, got {sharpness}"),
        (length > 0, f"--length: expected at least 1, got {length}"),
        (sequences > 0, f"--sequences: expected at least 1, got {sequences}"),
    )
    directory = out or beside(run, "-corrected")
    model, config = correct_run(run, directory, every, codes, sharpness)
    trained = config.training.length
    found = track(model, config.data, measured_lengths(trained, length), sequences=sequences)
    print_tracking(found, trained, json, run=str(directory))
    if not json:
        print(directory)
    return 0
