"""torch.func over every op and backend: gradients, gradients of every sample, Jacobians; all as a loop gives them."""

import pytest
import torch
from cases import CASES, copy, differentiable, floats

from closeness import assert_equal_to_rounding

everywhere = pytest.mark.parametrize("case", CASES, ids=str, indirect=True)
SAMPLES, T = 3, 5


def total(case):
    """A number that depends on every output: a function of the inputs with a time axis and of those without."""

    def function(sequence, fixed):
        outputs = floats(case.run(sequence, fixed, None))
        return sum((out.square() * (1 + i)).sum() for i, out in enumerate(outputs))

    return function


def draw(case):
    """Several samples of the inputs with a time axis, and one of the others."""
    samples = [case.sequence(T, case.dtype) for _ in range(SAMPLES)]
    return samples, {name: torch.stack([s[name] for s in samples]) for name in samples[0]}, case.fixed(case.dtype)


def by_autograd(case, sequence, fixed):
    sequence, fixed = copy(sequence), copy(fixed)
    leaves = differentiable(sequence, fixed)
    gradients = torch.autograd.grad(total(case)(sequence, fixed), leaves, allow_unused=True, materialize_grads=True)
    return dict(zip([*sequence, *fixed], gradients, strict=True))


@everywhere
def test_gradients_by_transform_are_those_of_autograd(case):
    (sequence, *_), _, fixed = draw(case)
    of_sequence, of_fixed = torch.func.grad(total(case), argnums=(0, 1))(sequence, fixed)
    for name, expected in by_autograd(case, sequence, fixed).items():
        assert_equal_to_rounding((of_sequence | of_fixed)[name], expected, f"d{name}")


@everywhere
def test_gradients_of_every_sample_are_those_of_a_loop(case):
    samples, stacked, fixed = draw(case)
    got = torch.vmap(torch.func.grad(total(case), argnums=(0, 1)), in_dims=(0, None))(stacked, fixed)
    for i, sample in enumerate(samples):
        for name, expected in by_autograd(case, sample, fixed).items():
            assert_equal_to_rounding((got[0] | got[1])[name][i], expected, f"d{name} of sample {i}")


@everywhere
def test_outputs_of_every_sample_are_those_of_a_loop(case):
    samples, stacked, fixed = draw(case)
    with torch.no_grad():
        got = torch.vmap(lambda sequence: floats(case.run(sequence, fixed, None)))(stacked)
        for i, sample in enumerate(samples):
            for j, expected in enumerate(floats(case.run(sample, fixed, None))):
                assert_equal_to_rounding(got[j][i], expected, f"output {j} of sample {i}")


@everywhere
def test_a_jacobian_has_the_gradient_of_every_output(case):
    (sequence, *_), _, fixed = draw(case)
    name = next(iter(sequence))

    def last_step(x):
        return case.run(sequence | {name: x}, fixed, None)[0][0, -1].flatten()[:3]

    x = sequence[name].clone().requires_grad_()
    rows = [torch.autograd.grad(out, x, retain_graph=True)[0] for out in last_step(x)]
    assert_equal_to_rounding(torch.func.jacrev(last_step)(sequence[name]), torch.stack(rows), f"jacobian of {name}")
