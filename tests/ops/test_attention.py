"""Attention: caches, windows, grouped heads, padding, and its two backends."""

import pytest
import torch

from closeness import assert_as_good_as, assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import AttentionState, attention, matrix_scan

F64 = torch.float64


def draw(T=9, B=3, H=4, G=2, K=5, dtype=F64):
    return [torch.randn(B, T, n, size, dtype=F64).to(dtype) for n, size in ((H, K), (G, K), (G, 3))]


@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_it_is_softmax_over_the_steps_in_sight(window):
    q, k, v = draw()
    y, _ = attention(q, k, v, window=window, backend="reference")
    for t in range(9):
        first = 0 if window is None else max(0, t + 1 - window)
        for head in range(4):
            scores = torch.einsum("bk,btk->bt", q[:, t, head], k[:, first : t + 1, head // 2]) / 5**0.5
            expected = torch.einsum("bt,btv->bv", scores.softmax(-1), v[:, first : t + 1, head // 2])
            torch.testing.assert_close(y[:, t, head], expected)


@pytest.mark.parametrize("options", [{}, {"window": 4}, {"scale": 0.3}], ids=str)
def test_the_fused_backend_is_as_good_as_the_reference(options):
    drawn = draw(dtype=torch.float32)
    reset = torch.rand(3, 9) < 0.2
    got, plain = (attention(*drawn, reset=reset, backend=name, **options)[0] for name in ("sdpa", "reference"))
    exact, _ = attention(*(a.double() for a in drawn), reset=reset, backend="reference", **options)
    assert_as_good_as(got, plain, exact, "y")


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_padding_anywhere_is_as_if_it_were_not_there(window, backend):
    torch.manual_seed(5)
    q, k, v = draw(T=8, B=4)
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8]).bool()
    reset = torch.rand(4, 8) < 0.3
    _, state = attention(*draw(T=5, B=4), mask=torch.rand(4, 5) < 0.7, window=window, backend=backend)
    y, last = attention(q, k, v, state, mask=real, reset=reset, window=window, backend=backend)
    further = draw(T=2, B=4)
    y2, _ = attention(*further, last, window=window, backend=backend)
    for b in range(4):
        row = slice(b, b + 1)
        own = type(state)(*(part[row] for part in state))
        alone = [a[row, real[b]] for a in (q, k, v)]
        expected, after = attention(*alone, own, reset=reset[row, real[b]], window=window, backend=backend)
        torch.testing.assert_close(y[row, real[b]], expected)
        assert torch.equal(last.length[row], after.length)
        n = int(after.length)
        torch.testing.assert_close(last.k[row, last.k.shape[1] - n :], after.k[:, after.k.shape[1] - n :])
        expected2, _ = attention(*(a[row] for a in further), after, window=window, backend=backend)
        torch.testing.assert_close(y2[row], expected2)


def test_a_window_keeps_the_cache_constant():
    state = None
    for _ in range(5):
        _, state = attention(*draw(T=3), state, window=4)
    assert state.k.shape[1] == 3
    assert state.length.tolist() == [3, 3, 3]


def test_wrong_sizes_are_refused():
    q, k, v = draw()
    with pytest.raises(ShapeError, match="the heads of k must divide those of q, got q 4, k 3"):
        attention(q, torch.ones(3, 9, 3, 5, dtype=F64), torch.ones(3, 9, 3, 3, dtype=F64))
    with pytest.raises(ShapeError, match="window must be at least 1 or None, got 0"):
        attention(q, k, v, window=0)
    with pytest.raises(ShapeError, match=r"v must be torch.float64 \[3, 9, 2, 3\]"):
        attention(q, k, v[:, :, :1])


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_single_steps_see_all_that_came_before(backend):
    """Where every row's cache is full, and where one row's is not."""
    q, k, v = (torch.randn(2, 6, 2, 4, dtype=F64) for _ in range(3))
    real = torch.tensor([[True] * 6, [False, True, True, True, True, True]])
    for mask in (None, real):
        whole, _ = attention(q, k, v, mask=mask, backend=backend)
        state = None
        for t in range(6):
            now = slice(t, t + 1)
            flags = None if mask is None or t else mask[:, :1]  # without it once the padding is past
            y, state = attention(q[:, now], k[:, now], v[:, now], state, mask=flags, backend=backend)
            rows = slice(0, 2 if t else 1)  # what a padded step gives means nothing
            assert_equal_to_rounding(y[rows], whole[rows, now], "y")


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_forgetting_keeps_its_digits_late_in_a_long_sequence(backend):
    """The logarithms of all gates sum to -60,000, where the digits of float32 are 0.004 apart."""
    T = 2000
    q, k, v = draw(T=T, B=1, H=2, G=2, dtype=torch.float32)
    log_forget = -30 - torch.rand(1, T, 2)
    log_forget[:, -20:] = -torch.rand(1, 20, 2)
    y, _ = attention(q, k, v, log_forget=log_forget, backend=backend)
    exact, _ = attention(q.double(), k.double(), v.double(), log_forget=log_forget.double())
    assert (y[:, -10:] - exact[:, -10:]).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_a_sink_is_one_more_term_of_the_sum_of_weights(backend):
    q, k, v = draw(H=2, G=2)
    sinks = torch.randn(2, dtype=F64)
    y, _ = attention(q, k, v, sinks=sinks, backend=backend)
    scores = torch.einsum("bthk,bjhk->bhtj", q, k) / 5**0.5
    weights = scores.exp().tril()
    weights = weights / (weights.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    expected = torch.einsum("bhtj,bjhv->bthv", weights, v)
    assert_equal_to_rounding(y, expected, "y")


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_keys_pass_through_the_matrices_of_later_steps(backend):
    """20 steps are more than a chunk; some of the matrices are singular."""
    q, k, v = (x[:2] for x in draw(T=20, H=4, G=2, K=6))
    X = torch.randn(2, 20, 4, 3, 3, dtype=F64) / 2
    X[:, ::7, :, 1] = 0
    scores = torch.full((2, 4, 20, 20), -torch.inf, dtype=F64)
    for j in range(20):
        key = k[:, j].view(2, 4, 3)
        for i in range(j, 20):
            if i > j:
                key = torch.einsum("bmij,bmi->bmj", X[:, i], key)
            for h in range(4):
                scores[:, h, i, j] = (q[:, i, h] * key.view(2, 2, 6)[:, h // 2]).sum(-1) / 6**0.5
    expected = torch.einsum("bhij,bjhv->bihv", scores.softmax(-1), v.repeat_interleave(2, dim=2))
    y, state = attention(q, k, v, transition=X, backend=backend)
    assert_equal_to_rounding(y, expected, "y")
    assert_equal_to_rounding(state.k[:, 19], k[:, 19], "the last key")


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_orthogonal_transitions_multiply_queries_and_keys(backend):
    q, k, v = draw(H=2, G=2, K=6)
    X = torch.linalg.qr(torch.randn(*q.shape[:2], 2, 6, 6, dtype=F64)).Q
    R, _ = matrix_scan(X)
    y, _ = attention(q, k, v, transition=X, backend=backend)
    expected, _ = attention((R @ q[..., None])[..., 0], (R @ k[..., None])[..., 0], v)
    assert_equal_to_rounding(y, expected, "y")


def test_states_with_and_without_forgetting_are_not_mixed_up():
    q, k, v = draw()
    gates = -torch.rand(3, 9, 4, dtype=F64)
    _, plain = attention(q, k, v)
    _, forgetting = attention(q, k, v, log_forget=gates)
    with pytest.raises(ShapeError, match="attention: state must be a ForgettingState, got AttentionState"):
        attention(q, k, v, plain, log_forget=gates)  # type: ignore[call-overload]
    with pytest.raises(ShapeError, match="attention: state must be an AttentionState, got ForgettingState"):
        attention(q, k, v, forgetting)  # type: ignore[call-overload]
    assert isinstance(plain, AttentionState)
