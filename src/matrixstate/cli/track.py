"""`matrixstate track`."""

from pathlib import Path

from tyro.conf import Positional

from matrixstate.cli.output import ProgressBar, print_tracking
from matrixstate.cli.places import expect_figure
from matrixstate.cli.train import set_threads
from matrixstate.devices import find_device
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.evaluation.tracking_figure import draw_tracking
from matrixstate.training.task_config import measured_lengths
from matrixstate.training.tasks import load_task_model


def track_run(
    run: Positional[Path],
    *,
    length: int = 8192,
    sequences: int = 64,
    figure: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Measure how far a model trained on a task tracks, in one pass over long sequences.

    Args:
        run: The directory of a run on a task.
        length: Steps of the longest sequences. States are streamed, so that memory does not limit it.
        sequences: Number of sequences; the same ones for every model.
        figure: The file for a figure of the accuracy against the length. Default: none.
        seed: Of the sequences.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object.
    """
    place = find_device(device)
    set_threads(threads)
    expect_figure(figure)
    model, config = load_task_model(run, place)
    trained = config.training.length
    lengths = measured_lengths(trained, length)
    with ProgressBar("steps", length if config.data.prefix else sum(lengths)) as bar:
        found: Tracking = track(
            model,
            config.data,
            lengths,
            sequences=sequences,
            seed=seed,
            progress=lambda done, _: bar.update(done, ""),
        )
    print_tracking(found, trained, json, run=str(run))
    if figure is not None:
        draw_tracking({config.name: found}, trained, figure)
    return 0
