"""Which recurrence contains which, in float64: the general ones with the right inputs are the special ones."""

import math

import pytest
import torch

from matrixstate.ops import (
    LSTMState,
    delta_rule,
    delta_scan,
    gated_delta_rule,
    gru_scan,
    linear_attention,
    lstm_scan,
    m2rnn_scan,
    matrix_scan,
    outer_scan,
    rnn_scan,
)

B, T, H, K, V = 2, 37, 3, 4, 5
FORMS = ["reference", "chunked"]
every_form = pytest.mark.parametrize("form", FORMS)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def draw():
    """q, k, v, decays per channel, a state and resets."""
    decay, reset = -torch.rand(B, T, H, K, dtype=torch.float64), torch.rand(B, T) < 0.1
    return normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V), decay, normal(B, H, K, V), reset


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def by_matrices(transitions, q, k, v, state, reset):
    """S = A S + k vᵀ as the affine matrix scan H = H X + V of the transposes, read by q."""
    written = v[..., :, None] * k[..., None, :]
    h, last = matrix_scan(transitions.mT, written, state.mT, reset=reset, backend="reference")
    return (h @ q[..., None]).squeeze(-1), last.mT


@every_form
def test_outer_scan_is_delta_scan_that_reads_and_writes_nothing(form):
    q, k, v, decay, state, reset = draw()
    nothing = torch.zeros_like(k)
    options = {"log_decay": decay, "state": state, "reset": reset, "backend": form}
    assert_same(outer_scan(q, k, v, **options), delta_scan(q, k, v, read=nothing, write=nothing, **options))


@every_form
def test_outer_scan_is_matrix_scan_with_dense_factors(form):
    q, k, v, decay, state, reset = draw()
    got = outer_scan(q, k, v, log_decay=decay, state=state, reset=reset, backend=form)
    assert_same(got, by_matrices(torch.diag_embed(decay.exp()), q, k, v, state, reset))


@every_form
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_delta_rule_is_an_affine_matrix_scan(form, per_channel):
    q, k, v, decay, state, reset = draw()
    k, beta = torch.nn.functional.normalize(k, dim=-1), 2 * torch.rand(B, T, H, dtype=torch.float64)
    decay = decay if per_channel else decay[..., 0]
    got = gated_delta_rule(q, k, v, beta, decay, state=state, reset=reset, backend=form)
    kept = torch.diag_embed((decay if per_channel else decay[..., None].expand_as(k)).exp())
    erase = torch.eye(K, dtype=torch.float64) - beta[..., None, None] * k[..., :, None] * k[..., None, :]
    assert_same(got, by_matrices(erase @ kept, q, beta[..., None] * k, v, state, reset))


@every_form
def test_the_delta_rule_is_delta_scan_with_any_way_to_say_its_write(form):
    q, k, v, _, state, reset = draw()
    beta, options = torch.rand(B, T, H, dtype=torch.float64), {"state": state, "reset": reset, "backend": form}
    scaled = beta[..., None] * k / K
    got = delta_rule(q, k / K, v, beta, **options)
    assert_same(got, delta_scan(q, scaled, v, read=k / K, write=-scaled, **options))


@every_form
def test_linear_attention_is_attention_without_a_softmax(form):
    q, k = (torch.nn.functional.elu(normal(B, T, H, K)) + 1 for _ in range(2))
    v = normal(B, T, H, V)
    weights = torch.einsum("bthk,bjhk->bhtj", q, k).tril()
    expected = torch.einsum("bhtj,bjhv->bthv", weights / weights.sum(dim=-1, keepdim=True), v)
    assert_same(linear_attention(q, k, v, backend=form)[:1], [expected])


def test_m2rnn_with_one_row_is_a_leaky_rnn():
    """With K = 1 and q = 1, y_t = h_t = f h_{t-1} + (1 - f) tanh(h_{t-1} w + k v): at f = 0 exactly rnn_scan."""
    _, k, v, _, _, reset = draw()
    q, k, state = torch.ones(B, T, H, 1, dtype=torch.float64), k[..., :1], normal(B, H, 1, V)
    w, f = normal(H, V, V) / 2, torch.rand(B, T, H, dtype=torch.float64)
    got, last = m2rnn_scan(q, k, v, w, f, state, reset=reset, backend="reference")
    h, out = state[:, :, 0], []
    for t in range(T):
        h = h.masked_fill(reset[:, t, None, None], 0)
        inside = torch.einsum("bhv,hvw->bhw", h, w) + k[:, t] * v[:, t]
        h = f[:, t, :, None] * h + (1 - f[:, t, :, None]) * torch.tanh(inside)
        out.append(h)
    assert_same((got, last[:, :, 0]), (torch.stack(out, dim=1), h))
    got, last = m2rnn_scan(q, k, v, w, torch.zeros_like(f), state, reset=reset, backend="reference")
    assert_same((got, last[:, :, 0]), rnn_scan(k * v, w, state[:, :, 0], reset=reset, backend="reference"))


@pytest.mark.parametrize("per_channel", [False, True])
def test_decays_that_sum_to_minus_500_within_a_chunk_are_exact(per_channel):
    q, k, v, decay, state, _ = draw()
    decay = decay * (500 / -decay[:, :32].sum(dim=1, keepdim=True).amax())
    decay = decay if per_channel else decay[..., 0]
    for decay_v in (None, torch.full_like(v, -500 / T)):
        options = {"log_decay": decay, "log_decay_v": decay_v, "state": state}
        got = outer_scan(q, k, v, **options, chunk=64, backend="chunked")
        assert_same(got, outer_scan(q, k, v, **options, backend="reference"))
    k = torch.nn.functional.normalize(k, dim=-1)
    arguments = q, k, v, torch.rand(B, T, H, dtype=torch.float64), decay
    got = gated_delta_rule(*arguments, state=state, chunk=64, backend="chunked")
    assert_same(got, gated_delta_rule(*arguments, state=state, backend="reference"))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("strong", [-1e4, -1e9, -math.inf])
def test_chunks_take_all_decays_to_nothing_alike(strong, per_channel):
    """The sum of a chunk's decays must not lose those of a step's neighbours to the step that forgets all."""
    q, k, v, decay, state, _ = (x.float() for x in draw())
    beta, k = torch.rand(B, T, H), torch.nn.functional.normalize(k, dim=-1)
    found = []
    for least in (strong, -200):  # e^-200 is zero
        decay[:, 5] = least
        given = decay if per_channel else decay[..., 0]
        found.append(
            (
                *outer_scan(q, k, v, log_decay=given, state=state, backend="chunked"),
                *gated_delta_rule(q, k, v, beta, given, state=state, backend="chunked"),
            )
        )
    assert all(x.isfinite().all() for x in found[0])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_gru_scan_that_resets_after_is_the_gru_of_pytorch():
    d = 6
    theirs, x, start = torch.nn.GRU(V, d, batch_first=True).double(), normal(B, T, V), normal(1, B, d)
    weights = [w.T[None] for w in theirs.weight_hh_l0.chunk(3)]
    r, f, n = theirs.bias_hh_l0.chunk(3)
    xr, xf, x_ = torch.nn.functional.linear(x, theirs.weight_ih_l0, theirs.bias_ih_l0)[:, :, None].chunk(3, dim=-1)
    inputs, h = (x_, xf + f, xr + r), start[0][:, None]
    y, last = gru_scan(*inputs, *reversed(weights), h, reset_after=True, bias=n, backend="reference")
    expected, state = theirs(x, start)
    assert_same((y[:, :, 0], last[:, 0]), (expected, state[0]))


def test_lstm_scan_is_the_lstm_of_pytorch():
    d = 6
    theirs, x = torch.nn.LSTM(V, d, batch_first=True).double(), normal(B, T, V)
    start = normal(1, B, d), normal(1, B, d)
    wi, wf, wc, wo = (w.T[None] for w in theirs.weight_hh_l0.chunk(4))
    inputs = torch.nn.functional.linear(x, theirs.weight_ih_l0, theirs.bias_ih_l0 + theirs.bias_hh_l0)[:, :, None]
    xi, xf, xc, xo = inputs.chunk(4, dim=-1)
    state = LSTMState(*(s[0][:, None] for s in start))
    y, last = lstm_scan(xc, xi, xf, xo, wc, wi, wf, wo, state, backend="reference")
    expected, (h, c) = theirs(x, start)
    assert_same((y[:, :, 0], last.h[:, 0], last.c[:, 0]), (expected, h[0], c[0]))
