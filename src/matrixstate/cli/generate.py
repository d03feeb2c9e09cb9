"""`matrixstate generate`."""

import dataclasses
import itertools
import sys
from pathlib import Path

import torch
from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import print_json
from matrixstate.cli.places import expect_writable
from matrixstate.cli.train import set_threads
from matrixstate.data import TextStream, load_tokenizer, opening
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError, require, seed_checks
from matrixstate.models import Generation, Sampling, SavedState, begin, fork
from matrixstate.models import load_state as load
from matrixstate.models import save_state as save
from matrixstate.training import Run, load_model
from matrixstate.training.checkpoint import find_checkpoint, weights_hash


def generate(
    run: Positional[Path],
    *,
    prompt: UseAppendAction[tuple[str, ...]] = (),
    tokens: int = 300,
    greedy: bool = False,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    save_state: Path | None = None,
    load_state: Path | None = None,
    checkpoint: str = "latest",
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Continue a text with a trained model, token by token, in constant memory if its state is constant.

    The first prompt's text is printed as it is sampled; those of further prompts follow at the end.

    Args:
        run: The run's directory.
        prompt: The beginning of the text; several are continued at once. Default: a line break, or the tokenizer's
            first token if it has no line break; with --load-state nothing, for every text in it.
        tokens: Number of tokens to sample for each prompt.
        greedy: Always take the likeliest token; the same as --temperature 0.
        temperature: Divides the logits: below 1 for more likely tokens, above 1 for more varied ones.
        top_k: Sample from the k likeliest tokens only.
        top_p: Sample from the fewest tokens whose probabilities add up to p.
        seed: The i-th prompt is sampled with seed + i, whatever the others are. Default: 0; with --load-state the
            saved random state, from which the first of several prompts continues and the others get seeds.
        save_state: Write the state after the last token into this file, for --load-state.
        load_state: Continue from a saved state; several prompts fork the state of one text.
        checkpoint: "latest", "best" (lowest validation loss), or the step of a checkpoint in the run.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object with the texts.
    """
    place = find_device(device)
    set_threads(threads)
    if tokens < 1:
        raise ConfigError(f"--tokens: expected at least 1, got {tokens}")
    require(*seed_checks(seed or 0))
    expect_writable("state", save_state)
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p)
    opened = Run.open_text(run)
    tokenizer, model = load_tokenizer(opened.data), load_model(opened, checkpoint, place)
    sampling = dataclasses.replace(sampling, known=tokenizer.size)  # the model may have a larger vocabulary
    model_hash = weights_hash(find_checkpoint(opened.checkpoints, checkpoint)[0])
    saved = None if load_state is None else load(load_state, model, model_hash)
    prompts = list(prompt) or ([opening(tokenizer)] if saved is None else [""] * len(saved.pending))
    encoded = [tokenizer.encode(text) for text in prompts]
    if saved is None:
        start = begin(model, encoded, seed or 0)
    else:
        start = _with_prompts(fork(saved, len(prompts)), encoded, seed)
    generation = Generation(model, start, sampling)
    streams = [TextStream(tokenizer) for _ in prompts]
    texts = [""] * len(prompts)
    if not json:
        _show(prompts[0])
    for sampled in itertools.islice(generation, tokens):
        for i, token in enumerate(sampled.tolist()):
            new = streams[i].feed(token)
            texts[i] += new
            if i == 0 and not json:
                _show(new)
    if save_state is not None:
        save(save_state, generation.saved(), model_hash)
    if json:
        print_json({"texts": [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]})
        return 0
    for text, more in zip(prompts[1:], texts[1:], strict=True):
        _show(f"\n{'-' * 20}\n{text}{more}")
    _show("\n")
    return 0


def _with_prompts(start: SavedState, prompts: list[list[int]], seed: int | None) -> SavedState:
    """A saved state with prompts that are yet to be read, and with generators of another seed if one is given."""
    pending = [row + prompt for row, prompt in zip(start.pending, prompts, strict=True)]
    random = start.random
    if seed is not None:
        random = [torch.Generator().manual_seed(seed + row).get_state() for row in range(len(pending))]
    return dataclasses.replace(start, pending=pending, random=random)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
