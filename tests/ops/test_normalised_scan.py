"""The quotient of two linear recurrences: what it is by other names, scores of any size, empty sums, and mistakes."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from conftest import need
from matrixstate.errors import ShapeError
from matrixstate.ops import NormalisedState, attention, linear_scan, normalised_scan

F64 = torch.float64
B, T, H, V = 2, 21, 3, 4
every_backend = pytest.mark.parametrize("backend", ["reference", "chunked", "cpu"])
INF = float("inf")


def drawn(backend, *own, scale=1.0):
    """Scores, values and decays in the widest dtype of the backend."""
    need("normalised_scan", backend)
    dtype = torch.float32 if backend == "cpu" else F64
    score, v = scale * torch.randn(B, T, *own, dtype=F64), torch.randn(B, T, H, V, dtype=F64)
    return score.to(dtype), v.to(dtype), (-torch.rand(B, T, *own, dtype=F64)).to(dtype)


def softmax(score, v, log_decay):
    """The definition as attention: weights of every pair of steps, in float64."""
    score, log_decay = score.to(F64).expand(v.shape), log_decay.to(F64).expand(v.shape)
    since = log_decay.cumsum(1)
    pairs = score[:, None] + since[:, :, None] - since[:, None]  # [B, t, i, H, V]
    causal = torch.ones(T, T, dtype=torch.bool).tril().view(1, T, T, 1, 1)
    return (pairs.masked_fill(~causal, -INF).softmax(dim=2) * v.to(F64)[:, None]).sum(2)


@every_backend
def test_it_is_a_causal_softmax_with_given_scores(backend):
    score, v, log_decay = drawn(backend, H, 1, scale=5)
    y, _ = normalised_scan(score, v, log_decay=log_decay, backend=backend)
    assert_equal_to_rounding(y, softmax(score, v, log_decay).to(y.dtype), "y")


def test_it_is_attention_with_one_query():
    q, k = torch.randn(H, 5, dtype=F64), torch.randn(B, T, H, 5, dtype=F64)
    v = torch.randn(B, T, H, V, dtype=F64)
    score = torch.einsum("hk,bthk->bth", q, k)[..., None] / 5**0.5
    expected, _ = attention(q.expand(B, T, H, 5), k, v)
    assert_equal_to_rounding(normalised_scan(score, v)[0], expected, "y")


@every_backend
@pytest.mark.parametrize("bonus", [False, True])
def test_it_is_the_quotient_of_two_linear_scans(backend, bonus):
    score, v, log_decay = drawn(backend, H, V)
    u = torch.randn(H, V, dtype=F64).to(v.dtype) if bonus else None
    y, state = normalised_scan(score, v, log_decay=log_decay, bonus=u, backend=backend)
    s, x, g = score.to(F64), v.to(F64), log_decay.to(F64)
    sums = [linear_scan(written, log_decay=g) for written in (s.exp() * x, s.exp())]
    num, den = (h for h, _ in sums)
    if u is not None:
        own = (u + s).exp()
        num, den = (torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1) for h in (num, den))
        num, den = num + own * x, den + own
    assert_equal_to_rounding(y, (num / den).to(y.dtype), "y")
    for part, (_, last) in zip((state.num, state.den), sums, strict=True):
        assert_equal_to_rounding(state.max.exp() * part, last.to(y.dtype), "state")


@every_backend
def test_scores_of_thousands_are_harmless(backend):
    score, v, log_decay = drawn(backend, H, V, scale=1000)
    leaves = [t.requires_grad_() for t in (score, v, log_decay)]
    y, state = normalised_scan(score, v, log_decay=log_decay, bonus=torch.zeros(H, V).to(v), backend=backend)
    gradients = torch.autograd.grad(y.sum() + state.num.sum() + state.den.sum(), leaves)
    assert all(t.isfinite().all() for t in (y, *state, *gradients))
    y, _ = normalised_scan(score, v, log_decay=log_decay, backend=backend)
    assert_equal_to_rounding(y, softmax(score, v, log_decay).to(y.dtype), "y")


@every_backend
@pytest.mark.parametrize("bonus", [False, True])
def test_adding_to_all_scores_changes_nothing_but_the_maximum(backend, bonus):
    score, v, _ = drawn(backend, H, 1)
    score, u = (score * 256).round() / 256, torch.ones(H, 1).to(v) if bonus else None  # the sums below are exact
    here, there = (normalised_scan(score + shift, v, bonus=u, backend=backend) for shift in (0, 2**12))
    assert_equal_to_rounding(there[0], here[0], "y")
    assert_equal_to_rounding(there[1].max - 2**12, here[1].max, "max")


@every_backend
def test_steps_that_add_nothing_leave_every_bit_and_empty_sums_are_zeros(backend):
    score, v, _ = drawn(backend, H, 1)
    score[:, 3:6] = -INF
    score[0, :2] = -INF
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, 4] = True  # inside what adds nothing
    leaves = score.requires_grad_(), v.requires_grad_()
    y, state = normalised_scan(*leaves, reset=reset, backend=backend)
    assert not y[0, :2].any()
    assert not y[1, 4:6].any()
    assert all(torch.equal(y[0, 2 + t], y[0, 2]) for t in (1, 2, 3))
    gradients = torch.autograd.grad(y.sum() + state.den.sum(), leaves)
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[0][:, 4].any()
    _, before = normalised_scan(score[:, :3], v[:, :3], backend=backend)
    _, after = normalised_scan(score[:, 3:6], v[:, 3:6], state=before, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_backend
def test_a_decay_of_zero_forgets(backend):
    score, v, log_decay = drawn(backend, H, V)
    log_decay[:, 7] = -INF
    y, _ = normalised_scan(score, v, log_decay=log_decay, backend=backend)
    later, _ = normalised_scan(score[:, 7:], v[:, 7:], log_decay=log_decay[:, 7:], backend=backend)
    assert_equal_to_rounding(y[:, 7:], later, "y")


@every_backend
def test_scores_may_be_shared_along_any_axis(backend):
    for own in ((1, V), (1, 1), (H, 1)):
        score, v, log_decay = drawn(backend, *own)
        cases = [(score, log_decay), (score.expand_as(v), log_decay.expand_as(v))]
        shared, full = (normalised_scan(s, v, log_decay=g, backend=backend) for s, g in cases)
        assert shared[1].den.shape == (B, *own)
        assert_equal_to_rounding(shared[0], full[0], "y")
        assert_equal_to_rounding(shared[1].den.expand_as(full[1].den), full[1].den, "den")


def refused(match, score=(B, T, H, 1), v=(B, T, H, V), **options):
    with pytest.raises(ShapeError, match=f"normalised_scan: {match}"):
        normalised_scan(torch.zeros(score), torch.zeros(v), **options)


def test_mistakes_are_refused_with_sizes():
    refused(r"v must be floating point \[B, T, ...\], got torch.float32 \[2\]", (2,), (2,))
    refused(
        r"score must be torch.float32 \[2, 21, 3, 4\], with 1 for .*got torch.float32 \[2, 21, 3\]", score=(B, T, H)
    )
    refused(r"score must be .*got torch.float32 \[2, 21, 2, 1\]", score=(B, T, 2, 1))
    refused(
        r"log_decay must be floating point \[3, 1\] or \[2, 21, 3, 1\], .*got .* \[3, 4\]", log_decay=torch.zeros(H, V)
    )
    refused(r"bonus must be floating point \[3, 1\], .*got .* \[2, 21, 3, 1\]", bonus=torch.zeros(B, T, H, 1))
    refused("state must be a NormalisedState, got Tensor", state=torch.zeros(B, H, V))
    parts = NormalisedState(torch.zeros(B, H, 1), torch.zeros(B, H, 1), torch.zeros(B, H, 1))
    refused(r"state.num must be torch.float32 \[2, 3, 4\]", state=parts)
    with pytest.raises(ShapeError, match=r"score must be torch.float32 .*got torch.bfloat16"):
        normalised_scan(torch.zeros(B, T, H, 1).bfloat16(), torch.zeros(B, T, H, V))
