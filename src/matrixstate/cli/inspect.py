"""`matrixstate inspect`."""

import json as json_module
from pathlib import Path

import torch
from tyro.conf import Positional

from matrixstate.cli.output import ProgressBar, print_json
from matrixstate.cli.places import make_directory
from matrixstate.cli.train import set_threads
from matrixstate.data import load_tokenizer, read_files
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError
from matrixstate.evaluation.inspection import LONGEST, inspect_states
from matrixstate.evaluation.portrait import draw_portrait
from matrixstate.training import Run, load_model


def inspect(
    run: Positional[Path],
    *,
    text: str | None = None,
    file: Path | None = None,
    token: int | None = None,
    out: Path | None = None,
    checkpoint: str = "latest",
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Show the matrix states of a trained model over a text, token by token, as figures and as data.

    Heat maps of each token's change of the state, forget gate, rank and norm; singular values; the state at several
    tokens; and for how long the state remembers a single token. One PNG per layer, and inspect.json with the numbers.

    Args:
        run: The run's directory.
        text: The text to read.
        file: A file of which the first 200 tokens are read, instead of --text.
        token: The token, counted from 0, whose effect is measured by leaving it out. Default: the one that changed the
            states most, after the first quarter.
        out: The directory of figures and data. Default: inspect in the run.
        checkpoint: "latest", "best" (lowest validation loss), or the step of a checkpoint in the run.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print the data as one JSON object and draw nothing.
    """
    place = find_device(device)
    set_threads(threads)
    if (text is None) == (file is None):
        raise ConfigError("inspect: expected either --text or --file")
    opened = Run.open_text(run)
    tokenizer, model = load_tokenizer(opened.data), load_model(opened, checkpoint, place)
    tokens = tokenizer.encode(text if text is not None else read_files([file] if file else []))
    tokens = tokens[: 200 if file else LONGEST + 1]
    if out is not None and not json:
        make_directory(out)  # fails before the work is done
    with ProgressBar("inspect", len(tokens)) as bar:
        found = inspect_states(model, torch.tensor(tokens), token, lambda done: bar.update(done, "tokens"))
    if json:
        print_json(found.data())
        return 0
    out = out or opened.directory / "inspect"
    make_directory(out)
    shown = [tokenizer.decode([token]) for token in tokens]
    (out / "inspect.json").write_text(json_module.dumps({"tokens": shown, **found.data()}, ensure_ascii=False), "utf-8")
    for i, trace in enumerate(found.layers):
        path = out / f"layer-{trace.layer}.png"
        draw_portrait(found, i, shown, path)
        print(path)
    print(out / "inspect.json")
    return 0
