"""What the faster library brings to projections: `python benchmarks/linear.py [--cycles N] [--table docs/speed.md]`.

First single products with their gradients, by `ops.linear` as it chooses here and by PyTorch's own, at sizes of the
configs. Then whole training steps of configs/shakespeare/ on a random text, two runs from the same weights on the same
batches, in turns of ten steps. CPU time at one thread; of the products the fastest of each, of the steps the mean over
the quieter half of the turns. The losses of the two runs are compared before anything is printed.
"""

import argparse
import random
import string
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from overhead import CONFIGS, take_turns
from tables import made_with, markdown, write_section
from timing import let_allocator_settle

from matrixstate.ops import backends, linear, prefer
from matrixstate.training import load_config, start
from matrixstate.training.session import Session
from matrixstate.training.stopping import Stop

NAMES = {"mru": "MRU", "m2rnn": "M²RNN", "attention": "attention"}
SIZES = ((2048, 128, 128), (2048, 128, 512), (2048, 512, 128), (2048, 128, 65), (4096, 512, 512), (1, 128, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20, help="turns of ten steps each")
    parser.add_argument("--configs", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--table", type=Path, help="put the tables between their marks in this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    let_allocator_settle()
    chosen = backends("cpu", torch.float32)["linear"]
    print(f"linear takes {chosen} on this processor", flush=True)
    products = [product(*sizes) for sizes in SIZES]
    lines = markdown(["x by weight", "PyTorch's, ms", f"{chosen}, ms", "ratio", "GF/s"], products)
    steps = [step(name, options.cycles) for name in options.configs]
    lines += ["", *markdown(["training step", "PyTorch's, ms", f"{chosen}, ms", "ratio", "loss of both"], steps)]
    print("\n".join(lines))
    if options.table is not None:
        command = f"python benchmarks/linear.py --cycles {options.cycles}"
        write_section(options.table, "linear", [*lines, "", made_with(command)])


def pytorchs_own() -> AbstractContextManager[None]:
    """Inside, every op has its usual backend but for linear, which has none of these but the reference."""
    return prefer("cpu", "sdpa", "chunked", "composed", "reference")


def product(M: int, K: int, N: int) -> list[str]:
    """A row of the table: y and both gradients of x [M, K] and weight [N, K]."""
    x, weight = torch.randn(M, K, requires_grad=True), torch.randn(N, K, requires_grad=True)
    dy = torch.randn(M, N)

    def chosen() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(linear(x, weight), (x, weight), dy)

    def plain() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(linear(x, weight, backend="reference"), (x, weight), dy)

    for one, other in zip(chosen(), plain(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    ours, theirs = fastest(chosen, plain)
    rates = f"{6e-9 * M * K * N / theirs:.0f} to {6e-9 * M * K * N / ours:.0f}"
    return [f"{M} × {K} by {K} × {N}", f"{theirs * 1e3:.3f}", f"{ours * 1e3:.3f}", f"{theirs / ours:.2f}x", rates]


def fastest(*runs: Callable[[], object], turns: int = 30, seconds: float = 0.01) -> list[float]:
    """CPU seconds of one call of each: the least of many turns, a turn being as many calls as fill `seconds`."""
    best = [float("inf")] * len(runs)
    for _ in range(turns):
        for i, run in enumerate(runs):
            calls, began = 0, time.process_time()
            while (spent := time.process_time() - began) < seconds:
                run()
                calls += 1
            best[i] = min(best[i], spent / calls)
    return best


def step(name: str, cycles: int) -> list[str]:
    """A row of the table: whole steps of a training."""
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = session(name, Path(directory), "ours"), session(name, Path(directory), "theirs")

        def plain() -> None:
            with pytorchs_own():
                theirs.step()

        seconds, plain_seconds = take_turns((ours.step, plain), cycles)
        with torch.no_grad():
            tokens, targets, *_ = ours.stream.batch(0)
            losses = [
                torch.nn.functional.cross_entropy(run.model(tokens)[0].flatten(0, 1), targets.flatten()).item()
                for run in (ours, theirs)
            ]
    torch.testing.assert_close(*losses, rtol=0.01, atol=0)
    ratio = f"{plain_seconds / seconds:.2f}x"
    both = ", ".join(f"{loss:.4f}" for loss in losses)
    return [NAMES[name], f"{plain_seconds * 1e3:.1f}", f"{seconds * 1e3:.1f}", ratio, both]


def session(name: str, directory: Path, run: str) -> Session:
    text = directory / "random.txt"
    text.write_text("".join(random.Random(0).choices(string.ascii_letters + "\n .,;:", k=200_000)))
    config = load_config(CONFIGS / f"{name}.yaml", [f"data.files=[{text}]", "training.precision=float32"])
    return Session(start(directory / run, config), [], resume=False, stop=Stop())


if __name__ == "__main__":
    main()
