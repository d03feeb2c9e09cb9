"""The M²RNN recurrence: shared heads, clamped gradients, independent rows."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from conftest import need
from matrixstate.errors import ShapeError
from matrixstate.ops import m2rnn_scan

F64 = torch.float64
B, T, H, K, V = 2, 7, 6, 3, 5


def draw(q=H, k=H, v=H, w=H, f=H):
    normal = lambda *shape: torch.randn(*shape, dtype=F64)  # noqa: E731
    return [
        normal(B, T, q, K),
        normal(B, T, k, K),
        normal(B, T, v, V),
        torch.eye(V, dtype=F64) + 0.3 * normal(w, V, V),
        torch.rand(B, T, f, dtype=F64),
    ]


@pytest.mark.parametrize("heads", [(1, 1, 6, 6, 6), (1, 1, 6, 1, 3), (6, 3, 2, 1, 1), (2, 6, 3, 6, 2)], ids=str)
def test_shared_heads_are_repeated_heads(heads):
    shared = [a.requires_grad_() for a in draw(*heads)]
    repeated = [
        a.repeat_interleave(H // n, dim=0 if i == 3 else 2) for i, (a, n) in enumerate(zip(shared, heads, strict=True))
    ]
    y, state = m2rnn_scan(*shared)
    expected, last = m2rnn_scan(*repeated)
    assert_equal_to_rounding(y, expected, "y")
    assert_equal_to_rounding(state, last, "state")
    weights = torch.randn_like(y)
    for got, other in zip(
        torch.autograd.grad(y, shared, weights), torch.autograd.grad(expected, shared, weights), strict=True
    ):
        assert_equal_to_rounding(got, other, "gradient")


def test_head_n_uses_the_group_that_holds_it():
    q, k, v, w, f = draw(k=3)
    y, _ = m2rnn_scan(q, k, v, w, f)
    for n in range(H):
        one = m2rnn_scan(
            q[:, :, n : n + 1], k[:, :, n // 2, None], v[:, :, n : n + 1], w[n : n + 1], f[:, :, n : n + 1]
        )
        assert_equal_to_rounding(y[:, :, n : n + 1], one[0], f"head {n}")


def test_the_rows_of_the_state_never_mix():
    q, k, v, w, f = draw()
    y, state = m2rnn_scan(q, k, v, w, f)
    rows = [m2rnn_scan(q[..., i : i + 1], k[..., i : i + 1], v, w, f) for i in range(K)]
    assert_equal_to_rounding(sum(row[0] for row in rows), y, "y")
    assert_equal_to_rounding(torch.cat([row[1] for row in rows], dim=2), state, "state")


def test_keeping_everything_changes_nothing_at_all():
    q, k, v, w, _ = (a.float() for a in draw())
    state = torch.randn(B, H, K, V)
    _, last = m2rnn_scan(q, k, v, w, torch.ones(B, T, H), state)
    assert torch.equal(last, state)


def test_keeping_nothing_is_an_elman_network():
    q, k, v, w, _ = draw()
    y, _ = m2rnn_scan(q, k, v, w, torch.zeros(B, T, H, dtype=F64))
    h = torch.zeros(B, H, K, V, dtype=F64)
    for t in range(T):
        h = torch.tanh(torch.einsum("bhkv,hvw->bhkw", h, w) + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t]))
    assert_equal_to_rounding(y[:, -1], torch.einsum("bhk,bhkv->bhv", q[:, -1], h), "y")


def test_the_gradient_of_each_state_is_clamped_once_and_nothing_else():
    bound = 0.05
    inputs = [a.requires_grad_() for a in draw()]
    state = torch.randn(B, H, K, V, dtype=F64, requires_grad=True)
    weights = torch.randn(B, T, H, V, dtype=F64)
    y, last = m2rnn_scan(*inputs, state, grad_clip=bound)
    plain = m2rnn_scan(*inputs, state)
    assert torch.equal(y, plain[0])
    got = torch.autograd.grad((y * weights).sum() + last.sum(), [*inputs, state])

    # by hand, backwards in time, one step at a time
    q, k, v, w, f = inputs
    states = [state]
    for t in range(T):
        one = [a[:, t : t + 1] for a in (q, k, v)]
        states.append(m2rnn_scan(*one, w, f[:, t : t + 1], states[-1])[1])
    incoming = torch.ones_like(state)
    expected = [torch.zeros_like(a) for a in inputs]
    clamped = 0
    for t in reversed(range(T)):
        total = incoming + torch.einsum("bhk,bhv->bhkv", q[:, t], weights[:, t])
        clamped += int((total.abs() > bound).sum())
        expected[0][:, t] = torch.einsum("bhkv,bhv->bhk", states[t + 1], weights[:, t])
        step = [a.detach()[:, t : t + 1].requires_grad_() for a in (q, k, v, f)]
        here, weight = states[t].detach().requires_grad_(), w.detach().requires_grad_()
        _, after = m2rnn_scan(*step[:3], weight, step[3], here)
        parts = torch.autograd.grad(after, [*step[1:], weight, here], total.clamp(-bound, bound))
        for target, part in zip((1, 2, 4), parts, strict=False):
            expected[target][:, t] = part[:, 0]
        expected[3] += parts[3]
        incoming = parts[4]
    assert clamped > 100
    for name, one, other in zip(("q", "k", "v", "w", "f", "state"), got, [*expected, incoming], strict=True):
        assert_equal_to_rounding(one, other, f"d{name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "every head count must divide the largest, 6, got q 6, k 4, v 6, w 6, f 6"),
        ({"f": 0}, "every head count must divide the largest, 6, got .* f 0"),
    ],
)
def test_head_counts_that_do_not_divide_are_refused(change, message):
    with pytest.raises(ShapeError, match=message):
        m2rnn_scan(*draw(**change))


def test_wrong_sizes_are_refused():
    q, k, v, w, f = draw()
    with pytest.raises(ShapeError, match=r"k must be torch.float64 \[2, 7, 6, 3\]"):
        m2rnn_scan(q, k[:, :-1], v, w, f)
    with pytest.raises(ShapeError, match=r"w must be torch.float64 \[6, 5, 5\]"):
        m2rnn_scan(q, k, v, w[..., :-1], f)
    with pytest.raises(ShapeError, match="grad_clip must be positive or None, got 0"):
        m2rnn_scan(q, k, v, w, f, grad_clip=0)


def test_a_step_that_keeps_everything_lets_the_gradient_pass_unclamped():
    q, k, v, w, f = draw()
    f = f.index_fill(1, torch.tensor([2, 6]), 1)
    state = torch.randn(B, H, K, V, dtype=F64, requires_grad=True)
    real = [0, 1, 3, 4, 5]
    _, last = m2rnn_scan(q, k, v, w, f, state, grad_clip=0.05)
    _, without = m2rnn_scan(q[:, real], k[:, real], v[:, real], w, f[:, real], state, grad_clip=0.05)
    assert torch.equal(last, without)
    assert_equal_to_rounding(*(torch.autograd.grad(end.sum(), state)[0] for end in (last, without)), "dstate")


def test_values_of_width_zero_give_queries_and_keys_no_gradient():
    need("m2rnn_scan", "cpu")
    torch.rand(1 << 18)  # freed at once: scratch memory that is not initialised is then not all zeros
    q, k = (torch.randn(2, 5, 4, 5, requires_grad=True) for _ in range(2))
    v, w, f = torch.zeros(2, 5, 4, 0, requires_grad=True), torch.zeros(1, 0, 0), torch.rand(2, 5, 4)
    y, last = m2rnn_scan(q, k, v, w, f, backend="cpu")
    for gradient in torch.autograd.grad(y.sum() + last.sum(), [q, k]):
        assert torch.equal(gradient, torch.zeros_like(gradient))
