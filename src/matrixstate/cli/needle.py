"""`matrixstate needle`."""

from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import ProgressBar, print_json, print_table
from matrixstate.cli.places import expect_figure
from matrixstate.cli.train import set_threads
from matrixstate.data import load_tokenizer, open_corpus, read_files
from matrixstate.data.corpus import to_array
from matrixstate.devices import find_device
from matrixstate.evaluation.needle import draw_needles, find_needles
from matrixstate.training import Run, load_model


def needle(
    run: Positional[Path],
    *,
    lengths: tuple[int, ...] = (256, 1024),
    depths: tuple[float, ...] = (0.0, 0.5, 1.0),
    trials: int = 8,
    choices: int = 10,
    text: UseAppendAction[tuple[Path, ...]] = (),
    figure: Path | None = None,
    checkpoint: str = "latest",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Hide a sentence with a number in real text and ask a trained model for it at the end, by length and depth.

    Prints two shares: how often the right number is the likeliest of several choices, where chance is 1 / choices, and
    how often the model generates it.

    Args:
        run: The run's directory.
        lengths: Tokens in all, up to the end of the question.
        depths: Where the sentence is, as a share of the text: 0 is the start, 1 the end.
        trials: Number of trials per length and depth.
        choices: Number of choices, the right one included.
        text: A file or folder of UTF-8 text. Default: the run's validation text.
        figure: The file for a figure with heat maps. Default: needle.png in the run.
        checkpoint: "latest", "best" (lowest validation loss), or the step of a checkpoint in the run.
        seed: Of the numbers and the text around them.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object; draw a figure only with --figure.
    """
    place = find_device(device)
    set_threads(threads)
    expect_figure(figure)
    opened = Run.open_text(run)
    tokenizer, model = load_tokenizer(opened.data), load_model(opened, checkpoint, place)
    haystack = open_corpus(opened.data).validation
    if text:
        haystack = to_array(tokenizer.encode(read_files(text)), tokenizer.size)
    with ProgressBar("needle", trials * len(lengths) * len(depths)) as bar:
        grid = find_needles(
            model,
            tokenizer,
            haystack,
            lengths=lengths,
            depths=depths,
            trials=trials,
            choices=choices,
            seed=seed,
            progress=lambda done, _: bar.update(done, "trials"),
        )
    if json:
        print_json(grid.data())
        if figure is not None:
            draw_needles(grid, figure)
        return 0
    for title, shares in (("right preferred", grid.preferred), ("right written", grid.exact)):
        rows = [(f"{n:,}", *(f"{s:.0%}" for s in row)) for n, row in zip(lengths, shares, strict=True)]
        print_table(("tokens \\ depth", *(f"{depth:g}" for depth in depths)), rows, title)
    print(f"preferred: of {choices} numbers, where chance is {grid.chance:.0%}; written: by the model itself")
    figure = figure or run / "needle.png"
    draw_needles(grid, figure)
    print(figure)
    return 0
