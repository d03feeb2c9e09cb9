"""`matrixstate generate`."""

import sys
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import print_json
from matrixstate.cli.train import set_threads
from matrixstate.data import TextStream, load_tokenizer
from matrixstate.errors import ConfigError
from matrixstate.models import Sampling
from matrixstate.models import generate as generate_tokens
from matrixstate.training import Run, load_model


def generate(
    run: Positional[Path],
    *,
    prompt: UseAppendAction[tuple[str, ...]] = (),
    tokens: int = 300,
    greedy: bool = False,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    checkpoint: str = "latest",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Continue a text with a trained model, token by token, in constant memory where its state is constant.

    The first prompt's text appears as it is drawn, those of further prompts after it.

    Args:
        run: The run's directory.
        prompt: How the text begins; give it several times for several texts at once. Default: a line break.
        tokens: How many tokens to draw for each prompt.
        greedy: Always take the likeliest token; the same as --temperature 0.
        temperature: Divides the logits: below 1 is more cautious, above 1 more daring.
        top_k: Draw from the k likeliest tokens only.
        top_p: Draw from the fewest tokens whose probabilities reach p.
        seed: The i-th prompt is drawn with the seed + i, whatever the others are.
        checkpoint: "latest", "best" by validation loss, or the step of a checkpoint that was kept.
        threads: How many threads to use. Default: PyTorch's choice.
        json: Print one JSON object with the texts instead.
    """
    set_threads(threads)
    if tokens < 1:
        raise ConfigError(f"--tokens: expected at least 1, got {tokens}")
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p)
    opened = Run.open(run)
    tokenizer, model = load_tokenizer(opened.data), load_model(opened, checkpoint)
    prompts = list(prompt) or ["\n"]
    encoded = [tokenizer.encode(text) for text in prompts]
    streams = [TextStream(tokenizer) for _ in prompts]
    texts = [""] * len(prompts)
    if not json:
        _show(prompts[0])
    for drawn in generate_tokens(model, encoded, tokens, sampling, seed):
        for i, token in enumerate(drawn.tolist()):
            new = streams[i].feed(token)
            texts[i] += new
            if i == 0 and not json:
                _show(new)
    if json:
        print_json({"texts": [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]})
        return 0
    for text, more in zip(prompts[1:], texts[1:], strict=True):
        _show(f"\n{'-' * 20}\n{text}{more}")
    _show("\n")
    return 0


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
