"""What delta.py and outer.py share: contests of recurrences over q, k, v and further inputs."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from timing import Contest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closeness import assert_as_good_as

CHUNKS = (32, 64)
SHAPES = [(2, 1024, 4, 64, 64), (1, 512, 8, 32, 128)]  # B, T, H, K, V


def forward(run, inputs, **options):
    with torch.no_grad():
        return run(inputs, **options)


def both(run, inputs, dy, **options):
    y = run(inputs, **options)
    return y, *torch.autograd.grad(y, inputs, dy)


def check(run, inputs, dy, names):
    """Checks the first steps of the timed inputs, forward and backward, by the rule of `evaluation.closeness`."""
    short = [a[:, :40].detach().requires_grad_() for a in inputs]
    wide = [a.detach().double().requires_grad_() for a in short]
    got, plain = (both(run, short, dy[:, :40], backend=backend) for backend in ("cpu", "reference"))
    exact = both(run, wide, dy[:, :40].double(), backend="reference")
    for name, *results in zip(("y", *(f"d{name}" for name in names)), got, plain, exact, strict=False):
        assert_as_good_as(*results, name)


def contests(
    name: str, run: Callable, inputs: list, dy: torch.Tensor, names: tuple[str, ...], bounds: tuple[float, float]
) -> Iterator[Contest]:
    """Two contests of y = run(inputs), forward and forward with backward: kernel, chunked forms and step loop.

    names: of the inputs; there may be fewer inputs. bounds: seconds of the arithmetic, for each of the two.
    """
    directions = {"forward": partial(forward, run, inputs), "forward and backward": partial(both, run, inputs, dy)}
    for (direction, timed), bound in zip(directions.items(), bounds, strict=True):
        chunks = {f"PyTorch chunks of {c}": partial(timed, chunk=c, backend="chunked") for c in CHUNKS}
        yield Contest(
            f"{name} {direction}",
            check=partial(check, run, inputs, dy, names),
            ours=partial(timed, backend="cpu"),
            others=chunks | {"PyTorch step loop": partial(timed, backend="reference")},
            bound=bound,
            bound_name="bound of the arithmetic",
        )
