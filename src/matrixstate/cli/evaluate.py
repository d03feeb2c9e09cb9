"""`matrixstate evaluate`."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import ProgressBar, print_json, print_table
from matrixstate.cli.train import set_threads
from matrixstate.data import load_tokenizer, open_corpus, read_files
from matrixstate.data.corpus import to_array
from matrixstate.devices import find_device
from matrixstate.evaluation import text_loss
from matrixstate.training import Run, load_model


def evaluate(
    run: Positional[Path],
    *,
    text: UseAppendAction[tuple[Path, ...]] = (),
    window: int | None = None,
    carry: bool = False,
    checkpoint: str = "latest",
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Measure the loss of a trained model on a text: nats per token, bits per byte and character, and by position.

    The text is cut into windows that each start from the initial state; with --carry it is one sequence. Every token
    and byte counts; the first token of the text, which nothing precedes, costs log(vocabulary).

    Args:
        run: The run's directory.
        text: A file or folder of UTF-8 text. Default: the run's validation text.
        window: Tokens per window. Default: the sequence length of training.
        carry: Carry the state from window to window.
        checkpoint: "latest", "best" (lowest validation loss), or the step of a checkpoint in the run.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object.
    """
    place = find_device(device)
    set_threads(threads)
    opened = Run.open_text(run)
    tokenizer = load_tokenizer(opened.data)
    if text:
        content = read_files(text)
        tokens = to_array(tokenizer.encode(content), tokenizer.size)
    else:
        tokens = open_corpus(opened.data).validation
        content = tokenizer.decode(tokens.tolist())
    model = load_model(opened, checkpoint, place)
    with ProgressBar("evaluate", max(len(tokens) - 1, 1)) as bar:
        loss = text_loss(
            model,
            tokens,
            content,
            window=opened.config.training.sequence if window is None else window,
            carry=carry,
            progress=lambda done, _: bar.update(done, "tokens"),
        )
    numbers = {
        "nats_per_token": loss.nats_per_token,
        "bits_per_byte": loss.bits_per_byte,
        "bits_per_character": loss.bits_per_character,
        "tokens": loss.tokens,
        "bytes": loss.bytes,
        "characters": loss.characters,
        "window": loss.window,
        "carry": loss.carry,
    }
    if json:
        print_json({**numbers, "by_position": [dataclasses.asdict(part) for part in loss.by_position]})
        return 0
    print_table(("", str(run)), [(k, f"{v:.4f}" if isinstance(v, float) else f"{v}") for k, v in numbers.items()])
    rows = [
        (f"{p.first}" if p.end == p.first + 1 else f"{p.first}-{p.end - 1}", f"{p.nats_per_token:.4f}", f"{p.tokens:,}")
        for p in loss.by_position
    ]
    print_table(("position", "nats per token", "tokens"), rows)
    return 0
