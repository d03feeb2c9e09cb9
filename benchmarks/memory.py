"""A text that rewards memory: every passage occurs twice in a row, so that a model can copy the second occurrence.

    python benchmarks/memory.py --out DIR --text tinyshakespeare.txt [--configs conv-text rotary] [--seeds 0 1 2]

The passages are of a real text. The models are those of configs/shakespeare, trained on random windows of the length of
a pair, and evaluated on windows that begin with a pair, so that the loss by position shows the first and the second
occurrence. One thread. Finished trainings are not repeated.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from matrixstate.data import open_corpus
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.models import LanguageModel
from matrixstate.training import Run, load_config, load_model, start, train

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "shakespeare"

COMPARED = ["conv-text", "rotary", "mru-text", "m2rnn-text", "hybrid-m2rnn-text", "gated-deltanet"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--configs", nargs="*", metavar="NAME", default=COMPARED)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--passage", type=int, default=32, help="characters")
    parser.add_argument("--figure", type=Path, help="draw the loss by position there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    text = options.out / "twice.txt"
    text.write_text(twice(options.text.read_text(encoding="utf-8"), options.passage), encoding="utf-8")
    losses = {name: [run_once(options, text, name, seed) for seed in options.seeds] for name in options.configs}
    print("| config | seeds | first reading, nats | second reading | its second half |\n|---|---:|---:|---:|---:|")
    for name, seeds in losses.items():
        n = options.passage
        parts = [(1, n), (n + 1, 2 * n + 1), (n + 1 + n // 2, 2 * n + 1)]
        means = [statistics.mean(statistics.mean(each[a:b]) for each in seeds) for a, b in parts]
        print(f"| {name} | {len(seeds)} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    if options.figure:
        draw(losses, options.passage, options.figure)


def twice(text: str, length: int) -> str:
    """The text with every passage written twice, each time on its own line."""
    plain = " ".join(text.split())
    passages = [plain[i : i + length] for i in range(0, len(plain) - length, length)]
    return "".join(f"{passage}\n{passage}\n" for passage in passages)


def run_once(options: argparse.Namespace, text: Path, name: str, seed: int) -> list[float]:
    """Nats at every position of a window; trains the model, unless it has a result."""
    result = options.out / f"{name}-{seed}.json"
    if not result.exists():
        window = 2 * (options.passage + 1)  # each passage ends in a line break
        changes = [f"data.files=[{text.resolve()}]", f"seed={seed}", f"training.sequence={window}"]
        changes.append("training.precision=float32")
        config = load_config(CONFIGS / f"{name}.yaml", [*changes, f"training.steps={options.steps}"])
        run: Run = start(options.out / f"{name}-{seed}", config)
        train(run)
        result.write_text(json.dumps(by_position(load_model(run), run, options.passage)) + "\n")
        print(f"{name}, seed {seed}: done", flush=True)
    return json.loads(result.read_text())


@torch.no_grad()
def by_position(model: LanguageModel, run: Run, passage: int) -> list[float]:
    """Nats per character at every position of a pair, averaged over the pairs of the validation text."""
    corpus = open_corpus(run.data)
    tokens = torch.from_numpy(corpus.validation.astype("int64"))
    newline = corpus.tokenizer.encode("\n")[0]
    window = 2 * (passage + 1)
    ends = [int(i) for i in (tokens[: 2 * window] == newline).nonzero()]
    # a pair begins after the second of two ends between which the same passage stands
    first = next(
        i
        for i in (end + 1 for end in ends)
        if (tokens[i : i + passage] == tokens[i + passage + 1 : i + 2 * passage + 1]).all()
    )
    windows = tokens[first:].unfold(0, window, window)
    sums = torch.zeros(window - 1)
    for part in windows.split(64):
        logits, _ = model(part[:, :-1])
        sums += cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none").view(len(part), -1).sum(0)
    return [float("nan"), *(sums / len(windows)).tolist()]  # nothing precedes the first


def draw(losses: dict[str, list[list[float]]], passage: int, path: Path) -> None:
    """Plots the mean loss over all seeds at every position, smoothed over three positions."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for (name, seeds), colour in zip(losses.items(), COLOURS, strict=False):
        mean = torch.tensor(seeds).mean(dim=0)[1:]
        smooth = mean.unfold(0, 3, 1).mean(dim=1)
        axes.plot(range(2, 2 + len(smooth)), smooth, color=colour, label=name, linewidth=1.5)
    axes.axvline(passage + 1, color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(0, 3.2)
    axes.text(passage + 2, 3.15, "the passage again", color="0.4", va="top")
    axes.set_xlabel("position in the window")
    axes.set_ylabel("nats per character")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
