"""`matrixstate correct`."""

import math
from pathlib import Path

from tyro.conf import Positional

from matrixstate.cli.output import print_tracking
from matrixstate.cli.places import with_ending
from matrixstate.cli.train import set_threads
from matrixstate.devices import find_device
from matrixstate.errors import require
from matrixstate.evaluation.tracking import track
from matrixstate.training.task_config import measured_lengths
from matrixstate.training.tasks import correct_run

MAX_CODES = 4096  # the time of clustering grows with the square


def correct(
    run: Positional[Path],
    *,
    every: int = 8,
    codes: int | None = None,
    sharpness: float = 16.0,
    out: Path | None = None,
    length: int = 8192,
    sequences: int = 64,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Add error correction to a trained MRU without further training, and measure how far it tracks.

    Every few steps the states snap to codes, which are made of the states that the trained model takes.

    Args:
        run: The directory of a run on a task, of a model with MRUs whose state is a plain product.
        every: Steps from one correction to the next.
        codes: Number of clusters of states, whose centres become the codes; at most 4096, and two or more for every
            state of the task. Default: one code per answer, its mean state, for tasks whose answer determines the
            state, such as a group's word problem.
        sharpness: Inverse temperature of the softmax over the codes: the higher, the more the nearest one prevails.
        out: The directory of the corrected run. Default: RUN-corrected.
        length: Steps of the longest sequences in the evaluation.
        sequences: Number of sequences.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object.
    """
    place = find_device(device)
    set_threads(threads)
    require(
        (every > 0, f"--every: expected at least 1, got {every}"),
        (codes is None or 0 < codes <= MAX_CODES, f"--codes: expected 1 to {MAX_CODES}, got {codes}"),
        (0 < sharpness < math.inf, f"--sharpness: expected a positive number, got {sharpness}"),
        (length > 0, f"--length: expected at least 1, got {length}"),
        (sequences > 0, f"--sequences: expected at least 1, got {sequences}"),
    )
    directory = out or with_ending(run, "-corrected")
    model, config = correct_run(run, directory, every, codes, sharpness, place)
    trained = config.training.length
    found = track(model, config.data, measured_lengths(trained, length), sequences=sequences)
    print_tracking(found, trained, json, run=str(directory))
    if not json:
        print(directory)
    return 0
